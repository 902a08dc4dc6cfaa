// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

var errNotJSON = errors.New("not JSON")

// parseJSON reads a stream of JSON objects and arrays into nodes as the YAML parser would make them. YAML is nearly a superset of
// JSON, but the parser refuses tabs and surrogate pairs.
func parseJSON(data []byte, maxDepth int) ([]*yaml.Node, error) {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' && trimmed[0] != '[' {
		return nil, errNotJSON
	}
	r := jsonReader{dec: json.NewDecoder(bytes.NewReader(data)), data: data, line: 1}
	r.dec.UseNumber()
	var roots []*yaml.Node
	for {
		tok, err := r.dec.Token()
		if errors.Is(err, io.EOF) {
			return roots, nil
		}
		if err != nil {
			return nil, err
		}
		n, err := r.node(tok, maxDepth)
		if err != nil {
			return nil, err
		}
		roots = append(roots, n)
	}
}

type jsonReader struct {
	dec  *json.Decoder
	data []byte
	line int // at offset
	off  int
}

// here returns the line on which the latest token ends. No token has a line break inside.
func (r *jsonReader) here() int {
	off := int(r.dec.InputOffset())
	r.line += countLines(r.data[r.off:off])
	r.off = off
	return r.line
}

func (r *jsonReader) node(tok json.Token, depth int) (*yaml.Node, error) {
	n := &yaml.Node{Line: r.here()}
	switch t := tok.(type) {
	case nil:
		n.Kind, n.Tag, n.Value = yaml.ScalarNode, "!!null", "null"
	case bool:
		n.Kind, n.Tag, n.Value = yaml.ScalarNode, "!!bool", fmt.Sprint(t)
	case json.Number:
		n.Kind, n.Tag, n.Value = yaml.ScalarNode, "!!int", t.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case string:
		n.Kind, n.Tag, n.Value, n.Style = yaml.ScalarNode, "!!str", t, yaml.DoubleQuotedStyle
	case json.Delim:
		if depth <= 0 {
			return nil, errors.New("nested too deeply")
		}
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
		if t == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		// Inside an object, Token returns keys and values in turn.
		for {
			tok, err := r.dec.Token()
			if err != nil {
				return nil, err
			}
			if d, ok := tok.(json.Delim); ok && (d == ']' || d == '}') {
				return n, nil
			}
			child, err := r.node(tok, depth-1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
	}
	return n, nil
}
