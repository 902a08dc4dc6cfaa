// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *storetest.Instance {
		d := memory.NewDriver(memory.Options{})
		b := storetest.NewBreaker(d)
		return &storetest.Instance{
			Open:    func(testing.TB) store.Driver { return b },
			Behind:  func(testing.TB) store.Driver { return d },
			Cut:     func(testing.TB) func() { return b.Cut() },
			Compact: func(testing.TB) { d.Compact() },
		}
	})
}

// A history of a few changes makes watches expire all the time.
func BenchmarkMemory(b *testing.B) {
	d := memory.NewDriver(memory.Options{})
	storetest.Benchmark(b, &storetest.Instance{Open: func(testing.TB) store.Driver { return d }})
}

func TestMemoryWithoutHistory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *storetest.Instance {
		d := memory.NewDriver(memory.Options{History: 40})
		return &storetest.Instance{Open: func(testing.TB) store.Driver { return d }, Many: 1000}
	})
}

func Example() {
	ctx := context.Background()
	s := memory.New()
	heps := store.For[*hostendpoint.HostEndpoint](s)
	h, err := heps.Create(ctx, &hostendpoint.HostEndpoint{
		Metadata: hostendpoint.ObjectMeta{Name: "web"},
		Spec:     hostendpoint.HostEndpointSpec{Node: "n1", InterfaceName: "eth0"},
	})
	fmt.Println(h.ID(), h.Metadata.ResourceVersion, err)
	_, err = heps.Create(ctx, &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "web"}, Spec: h.Spec})
	fmt.Println(err)
	h.Spec.InterfaceName = "eth1"
	h, err = heps.Update(ctx, h)
	fmt.Println(h.Metadata.ResourceVersion, err)
	// Output:
	// HostEndpoint(web) 1 <nil>
	// create HostEndpoint(web): already exists
	// 2 <nil>
}
