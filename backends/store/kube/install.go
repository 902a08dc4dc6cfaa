// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/hostpolicy/hostpolicy/backends/store"
)

// InstallOptions say what Install makes. The zero value is the custom resources of the storage form.
type InstallOptions struct {
	Native bool // the custom resources of projectcalico.org/v3 instead of those of crd.projectcalico.org/v1
	Roles  bool // the cluster roles too
	DryRun bool // have the server check everything and change nothing
}

// Action is what Install did with an object.
type Action string

// The actions.
const (
	Created   Action = "created"
	Updated   Action = "updated"
	Unchanged Action = "unchanged"
	// Kept is an object that exists and does not carry the label of what Install made: Calico's own, which are never
	// touched. Both do.
	Kept Action = "kept"
)

// Installed is an object that Install looked at.
type Installed struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Action Action `json:"action"`
}

// The label by which Install knows what it made before.
const (
	managedBy = "app.kubernetes.io/managed-by"
	manager   = "hostpolicy"
)

// Install creates what a cluster needs before a Driver can be used, brings what it created before to its present form,
// and waits until the server serves it. What others created stays as it is. On an error it returns what was done before.
// Errors are *store.Error.
func Install(ctx context.Context, cfg Config, o InstallOptions) ([]Installed, error) {
	d, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	manifests := [][]byte{StorageCRDs}
	if o.Native {
		manifests[0] = NativeCRDs
	}
	if o.Roles {
		manifests = append(manifests, RBAC)
	}
	var out []Installed
	for _, m := range manifests {
		objects, err := documents(m)
		if err != nil {
			return out, err
		}
		for _, obj := range objects {
			action, err := d.install(ctx, obj, o.DryRun)
			if err != nil {
				return out, fmt.Errorf("%s %s: %w", obj.kind(), obj.name(), err)
			}
			out = append(out, Installed{obj.kind(), obj.name(), action})
		}
		for _, obj := range objects {
			if err := d.served(ctx, obj, o.DryRun); err != nil {
				return out, fmt.Errorf("%s %s: %w", obj.kind(), obj.name(), err)
			}
		}
	}
	return out, nil
}

// anything is an object of Kubernetes.
type anything map[string]any

func (a anything) meta() map[string]any { m, _ := a["metadata"].(map[string]any); return m }
func (a anything) name() string         { s, _ := a.meta()["name"].(string); return s }
func (a anything) kind() string         { s, _ := a["kind"].(string); return s }
func (a anything) version() string      { s, _ := a.meta()["resourceVersion"].(string); return s }

func (a anything) ours() bool {
	labels, _ := a.meta()["labels"].(map[string]any)
	return labels[managedBy] == manager
}

// content is what an object says, without what the server notes with each write.
func (a anything) content() string {
	for _, k := range []string{"resourceVersion", "generation", "managedFields"} {
		delete(a.meta(), k)
	}
	text, _ := json.Marshal(a) // it came from JSON
	return string(text)
}

const definition = "CustomResourceDefinition"

func (a anything) path() string {
	if a.kind() == definition {
		return "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	}
	return "/apis/rbac.authorization.k8s.io/v1/clusterroles"
}

// documents reads a manifest of this package.
func documents(manifest []byte) ([]anything, error) {
	var out []anything
	for _, doc := range bytes.Split(manifest, []byte("\n---\n")) {
		var a anything
		if err := yaml.Unmarshal(doc, &a); err != nil {
			return nil, err
		}
		if a != nil {
			out = append(out, a)
		}
	}
	return out, nil
}

// install creates or updates one object.
func (d *Driver) install(ctx context.Context, obj anything, dry bool) (Action, error) {
	params := map[string]string{"fieldManager": manager}
	if dry {
		params["dryRun"] = "All"
	}
	write := func(verb, path string) (anything, error) {
		body, err := json.Marshal(obj)
		if err != nil {
			return nil, err
		}
		var out anything
		return out, d.do(ctx, verb, path, params, body, &out)
	}
	path := obj.path() + "/" + url.PathEscape(obj.name())
	for {
		delete(obj.meta(), "resourceVersion")
		_, err := write(http.MethodPost, obj.path())
		if err == nil {
			return Created, nil
		}
		if !errors.Is(err, store.ErrAlreadyExists) {
			return "", err
		}
		var have anything
		err = d.do(ctx, http.MethodGet, path, nil, nil, &have)
		if errors.Is(err, store.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return "", err
		}
		if !have.ours() {
			return Kept, nil
		}
		obj.meta()["resourceVersion"] = have.version()
		now, err := write(http.MethodPut, path)
		switch {
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
			continue // written meanwhile: look again
		case err != nil:
			return "", err
		case now.content() == have.content(): // a trial leaves the version as it is
			return Unchanged, nil
		}
		return Updated, nil
	}
}

// served waits until the server serves a custom resource, until ctx ends.
func (d *Driver) served(ctx context.Context, obj anything, dry bool) error {
	if dry || obj.kind() != definition {
		return nil
	}
	for {
		var have struct {
			Status struct {
				Conditions []struct{ Type, Status, Message string }
			}
		}
		if err := d.do(ctx, http.MethodGet, obj.path()+"/"+url.PathEscape(obj.name()), nil, nil, &have); err != nil {
			return err
		}
		why := "the server has not looked at it yet"
		for _, c := range have.Status.Conditions {
			switch {
			case c.Type == "Established" && c.Status == "True":
				return nil
			case c.Status == "False":
				why = c.Message
			}
		}
		select {
		case <-ctx.Done():
			return &store.Error{Err: store.ErrUnavailable, Reason: "it is not served: " + why, Cause: ctx.Err()}
		case <-time.After(50 * time.Millisecond):
		}
	}
}
