// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Sentinels that classify an Error; use errors.Is.
var (
	ErrNotFound      = errors.New("does not exist")
	ErrAlreadyExists = errors.New("already exists")
	ErrConflict      = errors.New("update conflict")
	ErrUnauthorized  = errors.New("unauthorized")          // the datastore does not know who asks
	ErrForbidden     = errors.New("forbidden")             // the datastore knows, and refuses
	ErrExpired       = errors.New("revision expired")      // the datastore no longer has the history that was asked for
	ErrUnsupported   = errors.New("not supported")         // no such operation on this object or in this datastore
	ErrCorrupt       = errors.New("unreadable entry")      // the datastore has something that is no such object
	ErrRefused       = errors.New("refused")               // the datastore has rules of its own, which the object breaks
	ErrUnavailable   = errors.New("datastore not reached") // a write may have been done or not
	ErrStopped       = errors.New("watch stopped")
)

// Error is a failed operation on one object or kind.
type Error struct {
	Op      string              // "create", "update", "delete", "get", "list", "watch"
	ID      hostendpoint.ID     // of a list or watch, only the kind
	Err     error               // one of the sentinels; never nil
	Reason  string              // what the datastore says, or why; may be ""
	Cause   error               // the error of the datastore's own client; may be nil
	Current hostendpoint.Object // with ErrAlreadyExists and ErrConflict: what is there, if the datastore tells
}

// Error implements error: "update HostEndpoint(web): update conflict: reason".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	switch {
	case e.ID.Name != "":
		b.WriteString(" " + e.ID.String())
	case e.ID.Kind != "":
		b.WriteString(" " + e.ID.Kind)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	switch {
	case e.Reason != "":
		b.WriteString(": " + e.Reason)
	case e.Cause != nil && e.Err != ErrAlreadyExists && e.Err != ErrNotFound: // which say it all
		b.WriteString(": " + e.Cause.Error())
	}
	return b.String()
}

// Unwrap returns the sentinel and the cause.
func (e *Error) Unwrap() []error {
	var out []error
	for _, err := range [...]error{e.Err, e.Cause} {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}
