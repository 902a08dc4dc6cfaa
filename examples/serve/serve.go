// SPDX-License-Identifier: Apache-2.0

// Package serve shows an agent over HTTP: to people and programs as JSON, to supervisors as health, and to Prometheus.
//
//	/status    the agent's status, as JSON
//	/healthz   200 while the agent runs, else 503: restart it
//	/readyz    200 while the newest generation, or an older one while a newer is on its way, is enforced and the datastore
//	           is followed, else 503 and the reason
//	/counters  what was counted for each rule, busiest first, as JSON; ?limit=N
//	/enforced  200 and the receipt when the kernel enforces ?kind, namespace, name at ?version, 504 if not ?within
//	/metrics   for Prometheus
//
// It tells what the policy of the host is, and does not ask who wants to know: listen at an address that only those reach
// who may.
package serve

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/backends/metrics"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
)

// Options say what to show. Agent is required.
type Options struct {
	Agent   interface{ Status() agent.Status }
	Backend backends.Backend // for counters; nil is without
	Flows   *flowlog.Log     // nil is without
	// Patience is how long the kernel may take to answer; 0 is 10 s.
	Patience time.Duration
	Logger   *slog.Logger // nil is silence
}

// status is agent.Status as JSON.
type status struct {
	Name       string                   `json:"name"`
	Phase      agent.Phase              `json:"phase"`
	Node       string                   `json:"node"`
	Enforced   uint64                   `json:"enforced"`
	Wanted     uint64                   `json:"wanted"`
	Posture    agent.Posture            `json:"posture"`
	Error      string                   `json:"error,omitempty"`
	Failures   int                      `json:"failures,omitempty"`
	Receipt    agent.Receipt            `json:"receipt"`
	Synced     bool                     `json:"synced"`
	StaleSince time.Time                `json:"staleSince,omitzero"`
	StoreError string                   `json:"storeError,omitempty"`
	HostError  string                   `json:"hostError,omitempty"`
	Interfaces []hostendpoint.Interface `json:"interfaces"`
	Problems   []policy.Problem         `json:"problems"`
	Unreadable []string                 `json:"unreadable,omitempty"` // entries of the datastore
	Held       []held                   `json:"held,omitempty"`
	Drift      agent.Drift              `json:"drift"`
	Flows      *flowlog.Stats           `json:"flows,omitempty"`
}

type held struct {
	agent.ObjectVersion
	Error string `json:"error"`
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// ready returns why the agent is not ready; "" if it is.
func ready(s agent.Status) string {
	switch {
	case s.Phase == agent.Stopped:
		return "stopped"
	case s.Enforced == 0:
		return "nothing is enforced yet"
	case s.Phase == agent.Blocked || s.Phase == agent.Failing:
		return fmt.Sprintf("%s: generation %d is enforced in place of %d: %v", s.Phase, s.Enforced, s.Wanted, s.Err)
	case s.Store.Err != nil:
		return fmt.Sprintf("the datastore is not followed: %v", s.Store.Err)
	case s.HostErr != nil:
		return fmt.Sprintf("the host is not followed: %v", s.HostErr)
	}
	return ""
}

// Handler returns what answers.
func Handler(o Options) http.Handler {
	if o.Patience <= 0 {
		o.Patience = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", o.status)
	mux.HandleFunc("GET /counters", o.counters)
	mux.HandleFunc("GET /enforced", o.enforced)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		why := ""
		if o.Agent.Status().Phase == agent.Stopped {
			why = "stopped"
		}
		health(w, why)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { health(w, ready(o.Agent.Status())) })
	sources := []metrics.Source{metrics.Agent(o.Agent)}
	if o.Backend != nil {
		sources = append(sources, metrics.Rules(o.Backend))
	}
	if o.Flows != nil {
		sources = append(sources, metrics.Flows(o.Flows))
	}
	r := prometheus.NewRegistry()
	r.MustRegister(Collector(o.Patience, o.Logger, sources...))
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	return mux
}

func health(w http.ResponseWriter, why string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if why != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, why)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (o Options) json(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		o.Logger.Error("status cannot be written", "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n'))
}

func (o Options) status(w http.ResponseWriter, _ *http.Request) {
	s := o.Agent.Status()
	out := status{
		Name: s.Name, Phase: s.Phase, Node: s.Host.Node, Enforced: s.Enforced, Wanted: s.Wanted, Posture: s.Posture,
		Error: text(s.Err), Failures: s.Failures, Receipt: s.Receipt, Synced: s.Store.Synced, StaleSince: s.Store.StaleSince,
		StoreError: text(s.Store.Err), HostError: text(s.HostErr), Interfaces: s.Host.Interfaces, Problems: s.Problems, Drift: s.Drift,
	}
	if out.Interfaces == nil {
		out.Interfaces = []hostendpoint.Interface{}
	}
	if out.Problems == nil {
		out.Problems = []policy.Problem{}
	}
	for _, p := range s.Store.Problems {
		out.Unreadable = append(out.Unreadable, p.String())
	}
	for _, h := range s.Held {
		out.Held = append(out.Held, held{h.ObjectVersion, text(h.Err)})
	}
	if o.Flows != nil {
		f := o.Flows.Stats()
		out.Flows = &f
	}
	o.json(w, out)
}

func (o Options) counters(w http.ResponseWriter, r *http.Request) {
	limit := 0
	if l := r.URL.Query().Get("limit"); l != "" {
		n, err := strconv.Atoi(l)
		if err != nil || n < 0 {
			http.Error(w, fmt.Sprintf("limit %q: want a number", l), http.StatusBadRequest)
			return
		}
		limit = n
	}
	if o.Backend == nil {
		http.Error(w, "counters are not shown here", http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), o.Patience)
	defer cancel()
	cs, err := o.Backend.Counters(ctx)
	if err != nil {
		o.Logger.Warn("counters cannot be read", "error", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	slices.SortStableFunc(cs, func(a, b backends.Counter) int { return cmp.Compare(b.Packets, a.Packets) })
	if limit > 0 {
		cs = cs[:min(limit, len(cs))]
	}
	type counter struct {
		backends.Counter
		Pos field.Pos `json:"pos,omitzero"`
	}
	out := make([]counter, 0, len(cs))
	for _, c := range cs {
		out = append(out, counter{c, c.Origin.Pos})
	}
	o.json(w, out)
}
