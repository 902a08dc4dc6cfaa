// SPDX-License-Identifier: Apache-2.0

// Command apiserver is the Kubernetes API server, the etcd that it needs, and kubectl, for tests: "apiserver etcd ...",
// "apiserver kube-apiserver ..." and "apiserver kubectl ...", each with the flags of the original. It is a module of its
// own, since it needs far more than a client, and takes ten minutes to compile. It must not be compiled with -trimpath.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: apiserver etcd|kube-apiserver|kubectl flags...")
		os.Exit(2)
	}
	os.Args = os.Args[1:]
	switch os.Args[0] {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kubectl":
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommand()))
	default:
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	}
}
