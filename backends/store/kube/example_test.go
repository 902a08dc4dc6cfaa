// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"context"
	"fmt"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/kube"
)

func ExampleOpen() {
	ctx := context.Background()
	d, err := kube.Open(kube.Config{}) // inside a pod
	if err != nil {
		fmt.Println(err)
		return
	}
	for snap, err := range store.Snapshots(ctx, store.New(d, store.Options{}), store.SnapshotOptions{
		Told: func(s store.Status) { fmt.Println("synced:", s.Synced, s.Err) },
	}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(snap.Resources.Len(), "resources")
	}
}

func ExampleInstall() {
	rc, err := kube.Kubectl("") // the current context of kubectl
	if err != nil {
		fmt.Println(err)
		return
	}
	done, err := kube.Install(context.Background(), kube.Config{REST: rc}, kube.InstallOptions{Roles: true})
	for _, d := range done {
		fmt.Println(d.Kind, d.Name, d.Action)
	}
	if err != nil {
		fmt.Println(err)
	}
}
