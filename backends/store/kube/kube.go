// SPDX-License-Identifier: Apache-2.0

// Package kube is a datastore in the API of Kubernetes: the custom resources of Calico, in the form in which Calico stores
// them (crd.projectcalico.org/v1) or in that of its newer native resources (projectcalico.org/v3).
//
// Profiles are made of namespaces and service accounts, and Nodes of those of Kubernetes; both can only be read, as with
// Calico. Names must be such as Kubernetes accepts.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"

	"github.com/hostpolicy/hostpolicy/backends/store"
)

// Config says how to reach the API server. The zero value is for a program in a pod.
type Config struct {
	REST       *rest.Config // takes precedence; not changed. See Kubectl
	Kubeconfig string       // path of a file; "" for that of the pod

	// Native selects projectcalico.org/v3 instead of crd.projectcalico.org/v1.
	Native bool
	// Timeout bounds each request. 0 means 10 s.
	Timeout time.Duration
	// Probe is how often a watch that hears nothing asks the server whether it is still there, and how long it waits for
	// the answer. 0 means 10 s.
	Probe time.Duration
}

// Driver keeps objects in an API server. Make it with Open.
type Driver struct {
	cfg    Config
	client *rest.RESTClient
	dialer *connrotation.Dialer
}

var _ store.Driver = (*Driver)(nil)

// Open returns a Driver. It does not connect yet.
func Open(cfg Config) (*Driver, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Probe <= 0 {
		cfg.Probe = 10 * time.Second
	}
	rc := cfg.REST
	if rc == nil {
		var err error
		if cfg.Kubeconfig != "" {
			rc, err = clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
		} else {
			rc, err = rest.InClusterConfig()
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
	}
	rc = rest.CopyConfig(rc)
	if rc.UserAgent == "" {
		rc.UserAgent = "hostpolicy"
	}
	if rc.QPS == 0 {
		rc.QPS = -1 // no limit: the caller of the store knows how much it writes
	}
	// A dead connection carries all requests until it is closed: see Watch.
	dialer := connrotation.NewDialer(connrotation.DialFunc((&net.Dialer{Timeout: cfg.Timeout, KeepAlive: 30 * time.Second}).DialContext))
	if rc.Dial == nil {
		rc.Dial = dialer.DialContext
	}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	rc.GroupVersion = &schema.GroupVersion{Version: "v1"}
	rc.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	rc.ContentType, rc.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	client, err := rest.UnversionedRESTClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return &Driver{cfg: cfg, client: client, dialer: dialer}, nil
}

// Kubectl returns how kubectl would reach the API server: by the files of the environment variable KUBECONFIG, or the one
// in the home directory, or from inside a pod. Context is one of those in the files; "" is the current one.
func Kubectl(context string) (*rest.Config, error) {
	rc, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(),
		&clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return rc, nil
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
	var status apierrors.APIStatus
	isStatus := errors.As(err, &status)
	switch reason := apierrors.ReasonForError(err); {
	case !isStatus:
	case reason == metav1.StatusReasonAlreadyExists:
		kind = store.ErrAlreadyExists
	case reason == metav1.StatusReasonExpired, reason == metav1.StatusReasonGone:
		kind = store.ErrExpired
	default:
		switch status.Status().Code {
		case http.StatusUnauthorized:
			kind = store.ErrUnauthorized
		case http.StatusForbidden:
			kind = store.ErrForbidden
		case http.StatusNotFound:
			kind = store.ErrNotFound
			if d := status.Status().Details; d == nil || d.Name == "" {
				kind = store.ErrUnsupported // not the object, but the resource itself
			}
		case http.StatusConflict:
			kind = store.ErrConflict
		case http.StatusGone:
			kind = store.ErrExpired
		case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge:
			kind = store.ErrRefused
		}
	}
	return &store.Error{Err: kind, Cause: err}
}

// quiet keeps client-go from writing to the standard error stream of the process. What it says comes back as an error.
func quiet(ctx context.Context) context.Context { return logr.NewContext(ctx, logr.Discard()) }

// maxRetries is how often a request is sent again that the server has not taken and asks to send again, as long as there
// is time: it does so when it starts, when a custom resource is new, and when it has too much to do.
const maxRetries = 20

// do sends a request and reads the answer.
func (d *Driver) do(ctx context.Context, verb, path string, params map[string]string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(quiet(ctx), d.cfg.Timeout)
	defer cancel()
	r := d.client.Verb(verb).AbsPath(path).MaxRetries(maxRetries)
	for k, v := range params {
		r = r.Param(k, v)
	}
	if body != nil {
		r = r.Body(body)
	}
	data, err := r.Do(ctx).Raw()
	if err != nil {
		// Raw gives the text of the body when there is one; the reason is in the Status that it is.
		var s metav1.Status
		if json.Unmarshal(data, &s) == nil && s.Kind == "Status" && s.Code != 0 {
			err = &apierrors.StatusError{ErrStatus: s}
		}
		return failure(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return nil
}
