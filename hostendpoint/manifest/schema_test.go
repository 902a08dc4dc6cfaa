// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// The schema tables say by hand what reflection could say of the Go types; here the two are compared.
func TestSchemasAreTheGoTypes(t *testing.T) {
	for _, kind := range hostendpoint.Kinds() {
		o, ok := hostendpoint.NewObject(kind)
		require.True(t, ok)
		compare(t, kind, schemaOf(kind), reflect.TypeOf(o).Elem())
	}
	compare(t, "host file", hostFileSchema, reflect.TypeFor[hostJSON]())
	compare(t, "test file", testFileSchema, reflect.TypeFor[testFileJSON]())
	require.Nil(t, schemaOf("Pod"))
}

func compare(t *testing.T, path string, s *schema, typ reflect.Type) {
	require.NotNil(t, s, path)
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch {
	case typ == reflect.TypeFor[hostendpoint.Protocol]():
		require.Equal(t, protocol, s.kind, path)
		return
	case typ == reflect.TypeFor[hostendpoint.Port]():
		require.Equal(t, port, s.kind, path)
		return
	case typ == reflect.TypeFor[json.RawMessage]():
		require.Equal(t, anything, s.kind, path)
		return
	}
	switch typ.Kind() {
	case reflect.Struct:
		require.Contains(t, []kind{object, textOr}, s.kind, path)
		fields := map[string]reflect.Type{}
		jsonFields(typ, fields)
		for _, m := range s.members {
			require.Contains(t, fields, m.name, path)
			compare(t, path+"."+m.name, m.schema, fields[m.name])
			delete(fields, m.name)
		}
		require.Empty(t, fields, "%s: fields without a schema", path)
	case reflect.Slice:
		require.Contains(t, []kind{list, failsafes, some}, s.kind, path)
		compare(t, path+"[]", s.elem, typ.Elem())
	case reflect.Map:
		require.Equal(t, textMap, s.kind, path)
	case reflect.String:
		require.Contains(t, []kind{textual, timestamp}, s.kind, path)
	case reflect.Bool:
		require.Equal(t, boolean, s.kind, path)
	case reflect.Float64:
		require.Equal(t, number, s.kind, path)
	case reflect.Uint16:
		require.Equal(t, kind(integer), s.kind, path)
		require.Equal(t, []int64{0, 65535}, []int64{s.min, s.max}, path)
	case reflect.Int, reflect.Int64:
		require.Contains(t, []kind{integer, asNumber}, s.kind, path)
	default:
		require.Fail(t, "unexpected type", "%s: %v", path, typ)
	}
}

// jsonFields collects the JSON names of the fields of a struct.
func jsonFields(typ reflect.Type, out map[string]reflect.Type) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			jsonFields(f.Type, out)
		case name != "-":
			out[name] = f.Type
		}
	}
}
