// SPDX-License-Identifier: Apache-2.0

package field_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

func TestPosText(t *testing.T) {
	require.Equal(t, "", field.Pos{}.String())
	require.Equal(t, "a.yaml", field.Pos{File: "a.yaml"}.String())
	require.Equal(t, "a.yaml:3", field.Pos{File: "a.yaml", Line: 3}.String())
}

func TestSourceFindsTheNearestAncestor(t *testing.T) {
	s := field.NewSource(field.Pos{File: "f", Line: 1}, map[string]int{"spec": 5, "spec.ingress[1]": 9, "metadata.labels.a.b/c": 3})
	for path, line := range map[string]int{
		"": 1, "kind": 1, "spec": 5, "spec.node": 5, "spec.ingress[0].action": 5, "spec.ingress[1].source.nets[0]": 9, "metadata.labels.a.b/c": 3,
	} {
		require.Equal(t, field.Pos{File: "f", Line: line}, s.At(path), path)
	}
	var none *field.Source
	require.Zero(t, none.At("spec"))
	require.Zero(t, none.Pos())
}

func TestListIsAnErrorOnlyIfItHoldsOne(t *testing.T) {
	require.NoError(t, field.List{}.Err())
	require.NoError(t, field.List(nil).Err())
}

func TestListSortsACopy(t *testing.T) {
	at := func(file string, line int, path string) *field.Error {
		return &field.Error{Pos: field.Pos{File: file, Line: line}, Path: path, Err: field.ErrInvalid}
	}
	l := field.List{at("b", 1, "x"), at("a", 2, "y"), at("a", 2, "x"), at("a", 1, "z")}
	first := l[0]
	var all *field.Errors
	require.ErrorAs(t, l.Err(), &all)
	require.Equal(t, field.List{l[3], l[2], l[1], l[0]}, all.List())
	require.Same(t, first, l[0])
}

func TestErrorsAreFound(t *testing.T) {
	special := errors.New("special")
	err := field.List{{Err: field.ErrUnknown}, {Err: special, Reason: "r"}}.Err()
	require.ErrorIs(t, err, field.ErrUnknown)
	require.ErrorIs(t, err, special)
	require.NotErrorIs(t, err, field.ErrRequired)
	var one *field.Error
	require.ErrorAs(t, err, &one)
}

func ExampleError() {
	fmt.Println(&field.Error{
		Object: "HostEndpoint(web)", Path: "spec.node", Pos: field.Pos{File: "web.yaml", Line: 31}, Value: "a b",
		Reason: "not a name", Err: field.ErrInvalid,
	})
	fmt.Println(&field.Error{Path: "spec.node", Err: field.ErrRequired})
	// Output:
	// web.yaml:31: HostEndpoint(web): spec.node: "a b": not a name
	// spec.node: required value missing
}
