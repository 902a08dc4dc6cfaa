// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// config is the plugin's part of the network configuration.
type config struct {
	types.PluginConf

	// Directory is that of the agent's file store. Required.
	Directory string `json:"directory"`
	// Wait is how long ADD waits until the agent enforces what it says of the workload, such as "5s", up to 50 s; ADD fails
	// with error 11, try again later, if that takes longer. "" is not at all: the agent follows within milliseconds.
	Wait string `json:"wait,omitempty"`
	// Agent is the socket at which the agent answers, agent.sock in its state directory. Required with Wait.
	Agent string `json:"agent,omitempty"`
	wait  time.Duration
	// InterfacePrefixes say how interfaces of workloads begin on the host, as the agent's configuration does. Nil is
	// Calico's "cali".
	InterfacePrefixes []string `json:"interfacePrefixes,omitempty"`
	// Namespace is that of workloads for which the runtime names none; "" is "default".
	Namespace string `json:"namespace,omitempty"`
	// Labels are those of all workloads of the network.
	Labels map[string]string `json:"labels,omitempty"`

	// Args are the labels of one workload, by the conventions of CNI.
	Args struct {
		CNI struct {
			Labels []struct {
				Key   string `json:"key"`
				Value string `json:"value"`
			} `json:"labels,omitempty"`
		} `json:"cni"`
	} `json:"args"`
	// RuntimeConfig is what a runtime says of one workload to a plugin with the capability "labels".
	RuntimeConfig struct {
		Labels map[string]string `json:"labels,omitempty"`
	} `json:"runtimeConfig"`
}

// kubernetes are the arguments by which Kubernetes runtimes name a pod.
type kubernetes struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString
	K8S_POD_NAME      types.UnmarshallableString
}

// The annotations that tell our objects from others, and whose they are.
const (
	ofNetwork   = "cni.hostpolicy.github.io/network"
	ofContainer = "cni.hostpolicy.github.io/container"
	ofInterface = "cni.hostpolicy.github.io/interface"
)

// reserved begins the labels that say what Calico says of workloads; nobody else may.
const reserved = "projectcalico.org/"

func invalid(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "the hostpolicy plugin's configuration is invalid", fmt.Sprintf(format, args...))
}

func parse(stdin []byte) (*config, error) {
	c := &config{InterfacePrefixes: []string{"cali"}, Namespace: "default"}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the network configuration cannot be read", err.Error())
	}
	if c.Directory == "" {
		return nil, invalid("directory: missing")
	}
	if c.Wait != "" {
		d, err := time.ParseDuration(c.Wait)
		switch {
		case err != nil || d <= 0 || d > 50*time.Second:
			return nil, invalid("wait: %q is no duration up to 50s", c.Wait)
		case c.Agent == "":
			return nil, invalid("agent: missing, and wait asks for it")
		}
		c.wait = d
	}
	if slices.Contains(c.InterfacePrefixes, "") {
		return nil, invalid("interfacePrefixes: an empty one would make every interface one of a workload")
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the result of the plugin before cannot be read", err.Error())
	}
	return c, nil
}

// result returns what the plugins before have made.
func (c *config) result() (*current.Result, error) {
	if c.PrevResult == nil {
		return nil, invalid("it must stand behind a plugin that makes an interface")
	}
	return current.NewResultFromResult(c.PrevResult)
}

// objectName is the name of a workload's NetworkSet: a function of what identifies an attachment.
func objectName(network, container, iface string) string {
	sum := sha256.Sum256([]byte(network + "\x00" + container + "\x00" + iface))
	return "cni-" + hex.EncodeToString(sum[:12])
}

// workload returns the NetworkSet of an attachment that has the addresses of r.
func (c *config) workload(args *skel.CmdArgs, r *current.Result) (*hostendpoint.NetworkSet, error) {
	var k kubernetes
	k.IgnoreUnknown = true
	if err := types.LoadArgs(args.Args, &k); err != nil {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS cannot be read", err.Error())
	}
	ns, orchestrator := c.Namespace, "cni"
	if k.K8S_POD_NAMESPACE != "" {
		ns, orchestrator = string(k.K8S_POD_NAMESPACE), "k8s"
	}
	labels := map[string]string{}
	maps.Copy(labels, c.Labels)
	for _, l := range c.Args.CNI.Labels {
		labels[l.Key] = l.Value
	}
	maps.Copy(labels, c.RuntimeConfig.Labels)
	for key := range labels {
		if strings.HasPrefix(key, reserved) {
			return nil, invalid("label %q: %s is reserved", key, reserved)
		}
	}
	labels[reserved+"orchestrator"] = orchestrator
	if k.K8S_POD_NAME != "" {
		labels[reserved+"pod"] = string(k.K8S_POD_NAME)
	}
	nets, err := addresses(r, args.IfName)
	if err != nil {
		return nil, err
	}
	o := &hostendpoint.NetworkSet{
		Metadata: hostendpoint.ObjectMeta{
			Namespace: ns, Name: objectName(c.Name, args.ContainerID, args.IfName), Labels: labels,
			Annotations: map[string]string{ofNetwork: c.Name, ofContainer: args.ContainerID, ofInterface: args.IfName},
		},
		Spec: hostendpoint.NetworkSetSpec{Nets: nets},
	}
	return o, nil
}

// addresses returns those of an interface of the workload.
func addresses(r *current.Result, ifName string) ([]string, error) {
	var out []string
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil {
			if *i < 0 || *i >= len(r.Interfaces) {
				return nil, invalid("the result before has an address of interface %d, and %d interfaces", *i, len(r.Interfaces))
			}
			if x := r.Interfaces[*i]; x.Sandbox == "" || x.Name != ifName {
				continue
			}
		}
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, invalid("the result before has the address %s", ip.Address.IP)
		}
		a = a.Unmap()
		out = append(out, netip.PrefixFrom(a, a.BitLen()).String())
	}
	if len(out) == 0 {
		return nil, invalid("the result before gives %s no address", ifName)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// hostInterfaces returns those that the plugins before made on the host; it is an error if one of them would be taken
// for a part of the host.
func (c *config) hostInterfaces(r *current.Result) ([]string, error) {
	var out []string
	for _, i := range r.Interfaces {
		if i.Sandbox != "" {
			continue
		}
		if !slices.ContainsFunc(c.InterfacePrefixes, func(p string) bool { return strings.HasPrefix(i.Name, p) }) {
			return nil, invalid("interfacePrefixes: the interface %s of the workload begins with none of %s, so it would be policed as a part of the host", i.Name, strings.Join(c.InterfacePrefixes, ", "))
		}
		out = append(out, i.Name)
	}
	if len(out) == 0 {
		return nil, invalid("the result before names no interface of the host")
	}
	return out, nil
}
