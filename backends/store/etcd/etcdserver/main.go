// SPDX-License-Identifier: Apache-2.0

// Command etcdserver is the etcd server, for tests. It is a module of its own, since a server needs far more than a
// client.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
