// SPDX-License-Identifier: Apache-2.0

package etcd

import "crypto/tls"

// TLSOf returns the TLS configuration that a driver has made of its files.
func TLSOf(d *Driver) *tls.Config { return d.cfg.TLS }
