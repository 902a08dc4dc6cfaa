// SPDX-License-Identifier: Apache-2.0

// Command cni is a chained CNI plugin that makes workloads known to host endpoint policy.
//
// It stands behind a plugin that makes interfaces and gives addresses, and files each workload as a NetworkSet with its
// addresses and labels in the directory that an agent keeps the host by (backends/store/file). So the rules of host
// endpoints select workloads like anything else that has labels, and there is nothing to tell the agent:
//
//	{
//	  "cniVersion": "1.1.0", "name": "shop",
//	  "plugins": [
//	    {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "subnet": "10.65.0.0/24"}},
//	    {"type": "hostpolicy", "directory": "/etc/hostpolicy", "interfacePrefixes": ["veth"],
//	     "labels": {"network": "shop"}, "capabilities": {"labels": true}}
//	  ]
//	}
//
// Traffic between the host and its own workloads is not for host endpoints to judge: it always passes, if the agent knows
// the interfaces of workloads by the same interfacePrefixes (policy.Config.WorkloadInterfacePrefixes). ADD refuses a
// workload whose interface does not begin like that, since it would be policed as part of the host. What workloads
// exchange with others is forwarded, and obeys the policies that apply on forward.
//
// It implements version 1.1 of the specification: ADD, DEL, CHECK, GC, STATUS and VERSION.
package main

import (
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
)

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		version.PluginSupports("0.4.0", "1.0.0", "1.1.0"), "hostpolicy: workloads as peers of host endpoint policy")
}
