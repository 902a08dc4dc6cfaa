// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"context"
	"fmt"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/etcd"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

func ExampleOpen() {
	ctx := context.Background()
	d, err := etcd.Open(etcd.Config{
		Endpoints: []string{"https://10.0.0.1:2379"},
		CAFile:    "/etc/calico/ca.pem", CertFile: "/etc/calico/client.pem", KeyFile: "/etc/calico/client.key",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = d.Close() }()
	endpoints, err := store.For[*hostendpoint.HostEndpoint](store.New(d, store.Options{})).List(ctx, store.ListOptions{Selector: "role == 'web'"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, h := range endpoints.Items {
		fmt.Println(h.Metadata.Name, h.Spec.Node)
	}
}
