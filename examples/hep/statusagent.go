// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/examples/serve"
	"github.com/hostpolicy/hostpolicy/policy"
)

// agentSocket is where an agent answers, in its state directory.
const agentSocket = "agent.sock"

func (t *target) agentAddress() (string, error) {
	dir, err := t.stateDir()
	return "unix:" + filepath.Join(dir, agentSocket), err
}

// agentStatus is what the agent that enforces here says of itself.
type agentStatus struct {
	Name       string      `json:"name"`
	Phase      agent.Phase `json:"phase"`
	Node       string      `json:"node"`
	Enforced   uint64      `json:"enforced"`
	Wanted     uint64      `json:"wanted"`
	Posture    string      `json:"posture"`
	Error      string      `json:"error,omitempty"`
	StoreError string      `json:"storeError,omitempty"`
	HostError  string      `json:"hostError,omitempty"`
	Receipt    struct {
		Kernel   backends.Receipt `json:"kernel"`
		Enforced time.Time        `json:"enforced"`
	} `json:"receipt"`
	Held []struct {
		agent.ObjectVersion
		Error string `json:"error"`
	} `json:"held,omitempty"`
	Unreadable []string    `json:"unreadable,omitempty"`
	Drift      agent.Drift `json:"drift"`

	interfaces []interfaceStatus
	problems   []policy.Problem
}

// askAgent returns what the agent says; nil if there is none.
func (t *target) askAgent(ctx context.Context) (*agentStatus, error) {
	address, err := t.agentAddress()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	text, err := serve.Get(ctx, address, "/status")
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrPermission):
		return nil, nil // none, one that was killed, or one that is not ours
	case err != nil:
		return nil, fmt.Errorf("the agent at %s does not answer: %w", address, err)
	}
	s := &agentStatus{}
	more := struct {
		Interfaces []interfaceStatus `json:"interfaces"`
		Problems   []policy.Problem  `json:"problems"`
	}{}
	if err := errors.Join(json.Unmarshal(text, s), json.Unmarshal(text, &more)); err != nil {
		return nil, fmt.Errorf("the agent at %s: %w", address, err)
	}
	s.interfaces, s.problems = more.Interfaces, more.Problems
	return s, nil
}

// agentResult is hep status without documents: all of it is what the agent says.
func (t *target) agentResult(ctx context.Context, s *agentStatus) (statusResult, error) {
	r := statusResult{Node: s.Node, Agent: s, Endpoints: []endpointStatus{}, Interfaces: s.interfaces, Problems: s.problems, Counters: []counterStatus{}}
	r.State = backends.State{Present: s.Enforced > 0, Generation: s.Receipt.Kernel.Generation, Fingerprint: s.Receipt.Kernel.Fingerprint}
	if !s.Drift.Repaired {
		r.State.Drift = s.Drift.Found
	}
	address, err := t.agentAddress()
	if err != nil {
		return r, err
	}
	text, err := serve.Get(ctx, address, "/counters?"+url.Values{"limit": {strconv.Itoa(maxCounters)}}.Encode())
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(text, &r.Counters)
}

// maxCounters is how many counters are asked for.
const maxCounters = 1 << 20

// printAgent says in lines what the agent is about.
func printAgent(out *output, s *agentStatus) {
	if s == nil {
		return
	}
	st := green
	if s.Phase != agent.Enforcing {
		st = yellow
	}
	line := fmt.Sprintf("agent %s: %s generation %d", s.Name, out.paint(st, string(s.Phase)), s.Enforced)
	if s.Wanted != s.Enforced {
		line += fmt.Sprintf(" of %d", s.Wanted)
	}
	if !s.Receipt.Enforced.IsZero() {
		line += out.paint(dim, " since "+s.Receipt.Enforced.Local().Format(time.DateTime))
	}
	fmt.Fprintln(out.out, line)
	for _, e := range []struct{ what, text string }{
		{"not the newest, because", s.Error}, {"the datastore:", s.StoreError}, {"the host:", s.HostError},
	} {
		if e.text != "" {
			fmt.Fprintln(out.out, " ", out.paint(red, e.what+" "+e.text))
		}
	}
	for _, h := range s.Held {
		fmt.Fprintln(out.out, " ", out.paint(yellow, "held back: "+h.ID.String()+": "+h.Error))
	}
	for _, u := range s.Unreadable {
		fmt.Fprintln(out.out, " ", out.paint(yellow, "cannot be read: "+u))
	}
	if d := s.Drift; d.Findings > 0 {
		fmt.Fprintln(out.out, " ", out.paint(yellow, fmt.Sprintf("drift found %d times, last at %s, mended: %t", d.Findings, d.At.Local().Format(time.DateTime), d.Repaired)))
	}
}
