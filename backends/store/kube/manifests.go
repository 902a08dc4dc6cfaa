// SPDX-License-Identifier: Apache-2.0

package kube

import _ "embed"

// The manifests that a cluster needs before a Driver can be used, as YAML; kubectl apply -f takes them.
var (
	// StorageCRDs defines the custom resources of crd.projectcalico.org/v1. A cluster with Calico has its own.
	//go:embed manifests/crds-v1.yaml
	StorageCRDs []byte
	// NativeCRDs defines the custom resources of projectcalico.org/v3.
	//go:embed manifests/crds-v3.yaml
	NativeCRDs []byte
	// RBAC defines the cluster roles hostpolicy-reader, for programs that only follow the resources, and hostpolicy-writer.
	//go:embed manifests/rbac.yaml
	RBAC []byte
)
