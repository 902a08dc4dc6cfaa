// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// The prefixes of profiles and of the labels that they hand on. Ref: libcalico-go/lib/backend/k8s/conversion.
const (
	namespacePrefix      = "kns."
	serviceAccountPrefix = "ksa."
	namespaceLabels      = "pcns."
	serviceAccountLabels = "pcsa."
	nameLabel            = "projectcalico.org/name"
)

const (
	namespaces      = "/api/v1/namespaces"
	serviceAccounts = "/api/v1/serviceaccounts"
)

// meta is the part of a Kubernetes object that profiles are made of.
type meta struct {
	Metadata hostendpoint.ObjectMeta
}

// namespaceProfile returns the profile of a namespace, which allows everything.
func namespaceProfile(data json.RawMessage) (*hostendpoint.Profile, error) {
	m, err := readMeta(data)
	if err != nil {
		return nil, err
	}
	p, err := profile(namespacePrefix+m.Name, namespaceLabels, m)
	if err != nil {
		return nil, err
	}
	p.Metadata.ResourceVersion = m.ResourceVersion + "/"
	allow := []hostendpoint.Rule{{Action: hostendpoint.Allow}}
	p.Spec.Ingress, p.Spec.Egress = allow, slices.Clone(allow)
	return p, nil
}

// serviceAccountProfile returns the profile of a service account, which has labels and no rules.
func serviceAccountProfile(data json.RawMessage) (*hostendpoint.Profile, error) {
	m, err := readMeta(data)
	if err != nil {
		return nil, err
	}
	p, err := profile(serviceAccountPrefix+m.Namespace+"."+m.Name, serviceAccountLabels, m)
	if err != nil {
		return nil, err
	}
	p.Metadata.ResourceVersion = "/" + m.ResourceVersion
	return p, nil
}

func readMeta(data json.RawMessage) (hostendpoint.ObjectMeta, error) {
	var o meta
	if err := json.Unmarshal(data, &o); err != nil {
		return o.Metadata, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return o.Metadata, nil
}

func profile(name, prefix string, m hostendpoint.ObjectMeta) (*hostendpoint.Profile, error) {
	uid, err := reverseUID(m.UID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	p := &hostendpoint.Profile{Metadata: hostendpoint.ObjectMeta{Name: name, UID: uid, CreationTimestamp: m.CreationTimestamp}}
	store.SetType(p, hostendpoint.KindProfile)
	p.Spec.LabelsToApply = map[string]string{prefix + nameLabel: m.Name}
	for k, v := range m.Labels {
		p.Spec.LabelsToApply[prefix+k] = v
	}
	return p, nil
}

func (d *Driver) getProfile(ctx context.Context, id hostendpoint.ID) (hostendpoint.Object, error) {
	var data json.RawMessage
	if name, ok := strings.CutPrefix(id.Name, namespacePrefix); ok {
		if err := d.do(ctx, http.MethodGet, namespaces+"/"+url.PathEscape(name), nil, nil, &data); err != nil {
			return nil, err
		}
		return object(namespaceProfile(data))
	}
	if rest, ok := strings.CutPrefix(id.Name, serviceAccountPrefix); ok {
		if ns, name, ok := strings.Cut(rest, "."); ok && ns != "" && name != "" {
			if err := d.do(ctx, http.MethodGet, namespaces+"/"+url.PathEscape(ns)+"/serviceaccounts/"+url.PathEscape(name), nil, nil, &data); err != nil {
				return nil, err
			}
			return object(serviceAccountProfile(data))
		}
	}
	return nil, store.ErrNotFound
}

// object makes an interface of a result, without making a nil pointer one that is not nil.
func object(p *hostendpoint.Profile, err error) (hostendpoint.Object, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}

// listProfiles returns all profiles on one page. Its revision is the two of which it is made.
func (d *Driver) listProfiles(ctx context.Context, opts store.ListOptions) (store.List[hostendpoint.Object], error) {
	var out store.List[hostendpoint.Object]
	var revisions []string
	for _, part := range [...]struct {
		path string
		make func(json.RawMessage) (*hostendpoint.Profile, error)
	}{{namespaces, namespaceProfile}, {serviceAccounts, serviceAccountProfile}} {
		for next := ""; ; {
			var p page
			if err := d.do(ctx, http.MethodGet, part.path, map[string]string{"limit": "500", "continue": next}, nil, &p); err != nil {
				return store.List[hostendpoint.Object]{}, err
			}
			for _, item := range p.Items {
				o, err := part.make(item)
				if err != nil {
					m, _ := readMeta(item)
					out.Problems = append(out.Problems, store.Problem{Key: part.path + "/" + m.Namespace + "/" + m.Name, Err: err})
				} else if opts.Wants(o.ID()) {
					out.Items = append(out.Items, o)
				}
			}
			if next = p.Metadata.Continue; next == "" {
				revisions = append(revisions, p.Metadata.ResourceVersion)
				break
			}
		}
	}
	out.ResourceVersion = strings.Join(revisions, "/")
	slices.SortFunc(out.Items, func(a, b hostendpoint.Object) int { return strings.Compare(a.ID().Name, b.ID().Name) })
	return out, nil
}

// watchProfiles follows namespaces and service accounts, until one of the two breaks.
func (d *Driver) watchProfiles(ctx context.Context, revision string, do func(store.Change) error) error {
	nsRev, saRev, ok := strings.Cut(revision, "/")
	if !ok {
		return fmt.Errorf("%w: %q is no revision of profiles", store.ErrExpired, revision)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	one := func(c store.Change) error {
		mu.Lock()
		defer mu.Unlock()
		return do(c)
	}
	errs := make(chan error, 2)
	run := func(path, revision string, make func(json.RawMessage) (*hostendpoint.Profile, error)) {
		errs <- d.follow(ctx, path, revision, one, func(deleted bool, data json.RawMessage) error {
			p, err := make(data)
			if err != nil {
				return err
			}
			c := store.Change{ID: p.ID()}
			if !deleted {
				c.Object = p
			}
			return one(c)
		})
	}
	go run(namespaces, nsRev, namespaceProfile)
	go run(serviceAccounts, saRev, serviceAccountProfile)
	err := <-errs
	cancel()
	<-errs
	return err
}

// The annotations in which Calico keeps what Kubernetes nodes have no field for.
// Ref: libcalico-go/lib/backend/k8s/resources/node.go.
const (
	nodeBGPv4       = "projectcalico.org/IPv4Address"
	nodeBGPv6       = "projectcalico.org/IPv6Address"
	nodeASNumber    = "projectcalico.org/ASNumber"
	nodeRRCluster   = "projectcalico.org/RouteReflectorClusterID"
	nodeIPIPv4      = "projectcalico.org/IPv4IPIPTunnelAddr"
	nodeVXLANv4     = "projectcalico.org/IPv4VXLANTunnelAddr"
	nodeVXLANv6     = "projectcalico.org/IPv6VXLANTunnelAddr"
	nodeVXLANMAC    = "projectcalico.org/VXLANTunnelMACAddr"
	nodeVXLANMACv6  = "projectcalico.org/VXLANTunnelMACAddrV6"
	nodeWireguardv4 = "projectcalico.org/IPv4WireguardInterfaceAddr"
	nodeWireguardv6 = "projectcalico.org/IPv6WireguardInterfaceAddr"
)

// decodeNode returns Calico's view of a Kubernetes node.
func decodeNode(data json.RawMessage) (hostendpoint.Object, error) {
	var k struct {
		Metadata hostendpoint.ObjectMeta
		Status   struct {
			Addresses []hostendpoint.NodeAddress
		}
	}
	if err := json.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	uid, err := reverseUID(k.Metadata.UID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	a := k.Metadata.Annotations
	n := &hostendpoint.Node{Metadata: hostendpoint.ObjectMeta{Name: k.Metadata.Name, UID: uid, ResourceVersion: k.Metadata.ResourceVersion,
		CreationTimestamp: k.Metadata.CreationTimestamp, Labels: k.Metadata.Labels, Annotations: a}}
	store.SetType(n, hostendpoint.KindNode)
	bgp := hostendpoint.NodeBGPSpec{IPv4Address: a[nodeBGPv4], IPv6Address: a[nodeBGPv6], IPv4IPIPTunnelAddr: a[nodeIPIPv4], RouteReflectorClusterID: a[nodeRRCluster]}
	if as, err := strconv.ParseInt(a[nodeASNumber], 10, 64); err == nil {
		bgp.ASNumber = &as
	}
	if bgp != (hostendpoint.NodeBGPSpec{}) {
		n.Spec.BGP = &bgp
	}
	if w := (hostendpoint.NodeWireguardSpec{InterfaceIPv4Address: a[nodeWireguardv4], InterfaceIPv6Address: a[nodeWireguardv6]}); w != (hostendpoint.NodeWireguardSpec{}) {
		n.Spec.Wireguard = &w
	}
	n.Spec.IPv4VXLANTunnelAddr, n.Spec.IPv6VXLANTunnelAddr = a[nodeVXLANv4], a[nodeVXLANv6]
	n.Spec.VXLANTunnelMACAddr, n.Spec.VXLANTunnelMACAddrV6 = a[nodeVXLANMAC], a[nodeVXLANMACv6]
	n.Spec.OrchRefs = []hostendpoint.OrchRef{{NodeName: k.Metadata.Name, Orchestrator: "k8s"}}
	for _, bgp := range [...]string{a[nodeBGPv4], a[nodeBGPv6]} {
		if ip, _, _ := strings.Cut(bgp, "/"); ip != "" {
			n.Spec.Addresses = append(n.Spec.Addresses, hostendpoint.NodeAddress{Address: ip, Type: "CalicoNodeIP"})
		}
	}
	for _, addr := range k.Status.Addresses {
		if addr.Type == hostendpoint.NodeAddressInternal || addr.Type == "ExternalIP" {
			n.Spec.Addresses = append(n.Spec.Addresses, addr)
		}
	}
	return n, nil
}
