// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// enforced waits until the agent of this host enforces a version of an object, if the configuration says so. Before
// that, rules that select the workload do not know its addresses yet.
func (c *config) enforced(ctx context.Context, o hostendpoint.Object) error {
	if c.wait == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.wait+time.Second) // the agent answers first
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.Agent)
		},
	}}
	id := o.ID().Stored()
	q := url.Values{"kind": {id.Kind}, "namespace": {id.Namespace}, "name": {id.Name}, "version": {o.Meta().ResourceVersion}, "within": {c.wait.String()}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/enforced?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("the agent at %s does not answer: %w", c.Agent, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return fmt.Errorf("the agent at %s says %s: %s", c.Agent, answer.Status, strings.TrimSpace(string(why)))
	}
	return nil
}
