// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"reflect"
	"unicode/utf8"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// Clone returns a deep copy of o. What cannot be written as JSON is an error: text that is not UTF-8, numbers that are
// not finite. The Source, which is immutable, is shared.
func Clone(o hostendpoint.Object) (hostendpoint.Object, error) {
	data, err := Encode(o)
	if err != nil {
		return nil, err
	}
	c, err := Decode(o.ID().Kind, data)
	if err != nil {
		return nil, err
	}
	setSource(c, sourceOf(o))
	return c, nil
}

// Encode returns the JSON of o, which is Calico's. The error is a *field.Errors.
func Encode(o hostendpoint.Object) ([]byte, error) {
	if path := notText(reflect.ValueOf(o).Elem(), ""); path != "" {
		return nil, invalid(o, path, field.ErrInvalid, "the text is not UTF-8, which no datastore can hold")
	}
	data, err := json.Marshal(o)
	if err != nil {
		return nil, invalid(o, "", field.ErrInvalid, err.Error())
	}
	return data, nil
}

// Decode reads an object of a kind from JSON. Names of fields are compared without regard to case and unknown ones are
// ignored, as Calico does with what is stored.
func Decode(kind string, data []byte) (hostendpoint.Object, error) {
	o, ok := hostendpoint.NewObject(kind)
	if !ok {
		return nil, fmt.Errorf("%w: kind %q", ErrUnsupported, kind)
	}
	if err := json.Unmarshal(data, o); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return o, nil
}

func invalid(o hostendpoint.Object, path string, kind error, reason string) error {
	return field.List{{Object: o.ID().String(), Path: path, Pos: o.At(path), Reason: reason, Err: kind}}.Err()
}

// notText returns the path of a string that is not UTF-8; "" if there is none.
func notText(v reflect.Value, path string) string {
	switch v.Kind() {
	case reflect.String:
		if !utf8.ValidString(v.String()) {
			return path
		}
	case reflect.Pointer:
		if !v.IsNil() && v.Type() != sourceType {
			return notText(v.Elem(), path)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			if p := notText(v.Field(i), join(path, jsonName(f))); p != "" {
				return p
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return ""
		}
		for i := range v.Len() {
			if p := notText(v.Index(i), fmt.Sprintf("%s[%d]", path, i)); p != "" {
				return p
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if !utf8.ValidString(it.Key().String()) || !utf8.ValidString(it.Value().String()) {
				return path
			}
		}
	}
	return ""
}

var sourceType = reflect.TypeFor[*field.Source]()

func jsonName(f reflect.StructField) string {
	name := f.Tag.Get("json")
	for i := range name {
		if name[i] == ',' {
			return name[:i]
		}
	}
	return name
}

func join(path, name string) string {
	if path == "" || name == "" {
		return path + name
	}
	return path + "." + name
}

// parts returns where o keeps its kind and its source.
func parts(o hostendpoint.Object) (*hostendpoint.TypeMeta, **field.Source) {
	switch o := o.(type) {
	case *hostendpoint.HostEndpoint:
		return &o.TypeMeta, &o.Source
	case *hostendpoint.Profile:
		return &o.TypeMeta, &o.Source
	case *hostendpoint.Tier:
		return &o.TypeMeta, &o.Source
	case *hostendpoint.GlobalNetworkPolicy:
		return &o.TypeMeta, &o.Source
	case *hostendpoint.NetworkPolicy:
		return &o.TypeMeta, &o.Source
	case *hostendpoint.GlobalNetworkSet:
		return &o.TypeMeta, &o.Source
	case *hostendpoint.NetworkSet:
		return &o.TypeMeta, &o.Source
	case *hostendpoint.Node:
		return &o.TypeMeta, &o.Source
	}
	return nil, nil
}

// SetType makes o say that it is of the kind, in projectcalico.org/v3.
func SetType(o hostendpoint.Object, kind string) {
	if t, _ := parts(o); t != nil {
		*t = hostendpoint.TypeMeta{Kind: kind, APIVersion: hostendpoint.APIVersion}
	}
}

func sourceOf(o hostendpoint.Object) *field.Source {
	if _, s := parts(o); s != nil {
		return *s
	}
	return nil
}

func setSource(o hostendpoint.Object, src *field.Source) {
	if _, s := parts(o); s != nil {
		*s = src
	}
}

// randomUID returns a UUID of RFC 9562, version 4.
func randomUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, by its contract
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}
