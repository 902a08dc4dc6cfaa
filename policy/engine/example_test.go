// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy/engine"
)

func sourceAt(file string, line int) *field.Source {
	return field.NewSource(field.Pos{File: file, Line: line}, nil)
}

func ExampleEngine() {
	host := hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{{Name: "eth0"}}}
	e, err := engine.New(host, engine.Options{KeepLastGood: true})
	if err != nil {
		panic(err)
	}

	web := &hostendpoint.HostEndpoint{}
	web.Metadata.Name, web.Metadata.Labels = "web", map[string]string{"role": "web"}
	web.Spec.Node, web.Spec.InterfaceName = "host-a", "eth0"
	allow := &hostendpoint.GlobalNetworkPolicy{}
	allow.Metadata.Name, allow.Spec.Selector = "allow-web", "role == 'web'"
	allow.Spec.Ingress = []hostendpoint.Rule{{
		Action: hostendpoint.Allow, Protocol: &hostendpoint.Protocol{Name: "TCP"},
		Destination: hostendpoint.EntityRule{Ports: []hostendpoint.Port{{Min: 80, Max: 80}}},
	}}
	if _, err := e.Apply(engine.Upsert(web), engine.Upsert(allow)); err != nil {
		panic(err)
	}

	more := *allow
	more.Spec.Ingress = append(more.Spec.Ingress, hostendpoint.Rule{Action: hostendpoint.Log})
	delta, err := e.Apply(engine.Upsert(&more))
	if err != nil {
		panic(err)
	}
	fmt.Println(delta.Blocks)
	fmt.Print(e.Fragment(delta.Blocks...))
	// Output:
	// [policy/default/allow-web/normal-in]
	// block policy/default/allow-web/normal-in
	//   rule protocol=tcp dport=80 -> allow by policy:default/allow-web/ingress[0]
	//   rule log by policy:default/allow-web/ingress[1]
}
