// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"net/http"
	"time"

	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// maxWait bounds what a request may wait for.
const maxWait = 50 * time.Second // less than Listen gives an answer

// enforced answers when the kernel enforces a version of an object, or when the time is up.
func (o Options) enforced(w http.ResponseWriter, r *http.Request) {
	a, ok := o.Agent.(interface {
		WaitReceipt(context.Context, func(*agent.Receipt) bool) (agent.Receipt, error)
	})
	if !ok {
		http.Error(w, "this agent cannot be waited for", http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	id := hostendpoint.ID{Kind: q.Get("kind"), Namespace: q.Get("namespace"), Name: q.Get("name")}.Stored()
	version := q.Get("version")
	within, err := time.ParseDuration(q.Get("within"))
	if err != nil || id.Kind == "" || id.Name == "" || version == "" {
		http.Error(w, "want kind, namespace, name, version and within, a duration", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), min(within, maxWait))
	defer cancel()
	receipt, err := a.WaitReceipt(ctx, func(r *agent.Receipt) bool {
		for i := range r.Objects {
			if r.Objects[i].ID == id && r.Objects[i].ResourceVersion == version {
				return true
			}
		}
		return false
	})
	if err != nil {
		http.Error(w, "not enforced in time: "+err.Error(), http.StatusGatewayTimeout)
		return
	}
	o.json(w, receipt)
}
