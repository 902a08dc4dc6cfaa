// SPDX-License-Identifier: Apache-2.0

// Package etcd is a datastore in etcd, in the layout of Calico's etcdv3 datastore: Calico and this package read and write
// the same entries.
package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hostpolicy/hostpolicy/backends/store"
)

// Config says how to reach etcd. Endpoints is required.
type Config struct {
	Endpoints          []string // URLs: https://host:2379
	Username, Password string
	TLS                *tls.Config // for https endpoints; nil for the files below, or the defaults of the system

	// Files in PEM form, as in Calico's configuration; used if TLS is nil.
	CAFile, CertFile, KeyFile string

	// Timeout bounds each request. 0 means 10 s.
	Timeout time.Duration
	// Probe is how often a watch that hears nothing asks the server whether it is still there, and how long it waits for
	// the answer: a connection can be dead without any error. 0 means 10 s.
	Probe time.Duration
}

// Driver keeps objects in etcd. Make it with Open.
type Driver struct {
	client *clientv3.Client
	cfg    Config
}

var _ store.Driver = (*Driver)(nil)

// Open returns a Driver, which must be closed. It does not wait for a connection: operations do, as long as they may.
func Open(cfg Config) (*Driver, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("%w: no endpoints of etcd were given", store.ErrUnavailable)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Probe <= 0 {
		cfg.Probe = 10 * time.Second
	}
	if cfg.TLS == nil {
		var err error
		if cfg.TLS, err = cfg.files(); err != nil {
			return nil, err
		}
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, Username: cfg.Username, Password: cfg.Password, TLS: cfg.TLS,
		DialTimeout: cfg.Timeout, DialKeepAliveTime: max(cfg.Probe, 10*time.Second), DialKeepAliveTimeout: cfg.Probe,
		Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, failure(err)
	}
	return &Driver{client: client, cfg: cfg}, nil
}

// Close ends the connections. Watches must be ended by their contexts before.
func (d *Driver) Close() error { return d.client.Close() }

// files makes a TLS configuration of the files; nil if there are none.
func (c Config) files() (*tls.Config, error) {
	if c.CAFile == "" && c.CertFile == "" && c.KeyFile == "" {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, err
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", c.CAFile)
		}
	}
	if c.CertFile != "" || c.KeyFile != "" {
		// Read anew for each connection, so that certificates can be rotated.
		load := func() (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			return &cert, err
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return out, nil
}

// failure classifies an error of the client, by codes.
func failure(err error) error {
	if err == nil {
		return nil
	}
	if known, ok := errors.AsType[*store.Error](err); ok {
		return known
	}
	kind := store.ErrUnavailable
	switch e := rpctypes.Error(err); {
	case errors.Is(e, rpctypes.ErrCompacted), errors.Is(e, rpctypes.ErrFutureRev):
		kind = store.ErrExpired
	case errors.Is(e, rpctypes.ErrPermissionDenied), errors.Is(e, rpctypes.ErrPermissionNotGranted):
		kind = store.ErrForbidden
	case errors.Is(e, rpctypes.ErrAuthFailed), errors.Is(e, rpctypes.ErrUserEmpty), errors.Is(e, rpctypes.ErrInvalidAuthToken),
		errors.Is(e, rpctypes.ErrAuthOldRevision), errors.Is(e, rpctypes.ErrInvalidAuthMgmt):
		kind = store.ErrUnauthorized
	case errors.Is(e, rpctypes.ErrRequestTooLarge), errors.Is(e, rpctypes.ErrNoSpace):
		kind = store.ErrRefused
	default:
		switch status.Code(err) {
		case codes.Unauthenticated:
			kind = store.ErrUnauthorized
		case codes.PermissionDenied:
			kind = store.ErrForbidden
		}
	}
	return &store.Error{Err: kind, Cause: err}
}

// bounded returns a context for one request.
func (d *Driver) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d.cfg.Timeout)
}
