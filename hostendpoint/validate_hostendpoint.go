// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// AllInterfaces is the interface name of an endpoint that stands for all interfaces without an endpoint of their own.
const AllInterfaces = "*"

// maxFelixProfileLen is the longest profile name with which Felix accepts an endpoint.
// Ref: libcalico-go/lib/validator/v1/validator.go.
const maxFelixProfileLen = 128

func (h *HostEndpoint) check(c *checker) {
	c.meta()
	s := &h.Spec
	if s.Node == "" {
		c.add(unusable, field.ErrRequired, "spec.node", "", "the name of the node that has the interfaces is required")
	} else {
		c.reference(tolerated, "spec.node", s.Node)
	}
	if s.InterfaceName != "" && !isInterfaceName(s.InterfaceName) {
		c.add(tolerated, field.ErrInvalid, "spec.interfaceName", s.InterfaceName,
			"must be \"*\", or 1 to 15 letters, digits, '.', '_' and '-'; patterns do not exist")
	}
	usable := s.InterfaceName != ""
	for i, ip := range s.ExpectedIPs {
		if _, err := inet.ParseAddr(ip); err != nil {
			c.add(tolerated, field.ErrInvalid, fmt.Sprintf("spec.expectedIPs[%d]", i), ip, "must be an IP address, without prefix length or zone")
			continue
		}
		usable = true
	}
	switch {
	case s.InterfaceName == "" && len(s.ExpectedIPs) == 0:
		c.add(unusable, field.ErrRequired, "spec.interfaceName", "", "an interfaceName or expectedIPs are required")
	case !usable:
		c.add(unusable, field.ErrRequired, "spec.expectedIPs", "", "without an interfaceName, at least one valid address is required")
	}
	for i, p := range s.Profiles {
		path := fmt.Sprintf("spec.profiles[%d]", i)
		c.reference(tolerated, path, p)
		if len(p) > maxFelixProfileLen {
			c.add(advice, field.ErrInvalid, path, p, "Calico drops an endpoint with a profile name of more than %d bytes", maxFelixProfileLen)
		}
	}
	if len(s.Ports) == 0 {
		return
	}
	first := map[string]int{}
	for i, p := range s.Ports {
		path := fmt.Sprintf("spec.ports[%d]", i)
		c.endpointPort(path, p)
		if j, ok := first[p.Name]; ok && p.Name != "" {
			// Deviation: Calico accepts this and uses all ports of the name; its documentation demands unique names.
			c.add(tolerated, field.ErrDuplicate, path+".name", p.Name, "spec.ports[%d] has this name already", j)
			continue
		}
		first[p.Name] = i
	}
}

func (c *checker) endpointPort(path string, p EndpointPort) {
	if !isPortName(p.Name) {
		kind := field.ErrInvalid
		if p.Name == "" {
			kind = field.ErrRequired
		}
		c.add(tolerated, kind, path+".name", p.Name, "a port name has 1 to 15 lower-case letters, digits and single hyphens inside, with at least one letter")
	}
	switch n, ok := p.Protocol.IP(); {
	case p.Protocol == Protocol{}:
		c.add(tolerated, field.ErrRequired, path+".protocol", "", "must be TCP, UDP or SCTP")
	case !ok || !n.HasPorts():
		c.add(tolerated, field.ErrInvalid, path+".protocol", p.Protocol.String(), "must be TCP, UDP or SCTP")
	case p.Protocol.Name == "":
		// Deviation: it works here.
		c.add(advice, field.ErrInvalid, path+".protocol", p.Protocol.String(), "Calico drops an endpoint with a port whose protocol is a number")
	default:
		c.protocolName(path+".protocol", p.Protocol)
	}
	if p.Port == 0 {
		c.add(tolerated, field.ErrRequired, path+".port", "", "must be from 1 to 65535")
	}
}
