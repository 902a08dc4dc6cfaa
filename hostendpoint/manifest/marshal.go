// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// ErrText is the error of Marshal for an object with text that is not UTF-8, which no document can hold.
var ErrText = errors.New("text is not UTF-8")

// Marshal writes the objects as YAML documents, which Parse reads back as equal objects: fields in Calico's order, what
// is empty left out, all text in quotes that any YAML reader could take for something else.
func Marshal(objects ...hostendpoint.Object) ([]byte, error) {
	var out bytes.Buffer
	for i, o := range objects {
		if i > 0 {
			out.WriteString("---\n")
		}
		n, err := encode(o)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", o.ID(), err)
		}
		enc := yaml.NewEncoder(&out)
		enc.SetIndent(2)
		if err := errors.Join(enc.Encode(n), enc.Close()); err != nil {
			return nil, fmt.Errorf("%v: %w", o.ID(), err)
		}
	}
	return out.Bytes(), nil
}

// encode returns the node tree of o.
func encode(o hostendpoint.Object) (*yaml.Node, error) {
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	// encoding/json writes bytes that are not UTF-8 as this escape, and U+FFFD itself as it is.
	if strings.Contains(strings.ReplaceAll(string(data), `\\`, ""), `\ufffd`) {
		return nil, ErrText
	}
	roots, err := parseJSON(data, defaultMaxDepth)
	if err != nil {
		return nil, err
	}
	root := roots[0]
	identify(root, o.ID().Kind)
	tidy(root)
	return root, nil
}

// identify puts the apiVersion and the kind first, whatever the object's TypeMeta says.
func identify(root *yaml.Node, kind string) {
	content := []*yaml.Node{plain("apiVersion"), plain(hostendpoint.APIVersion), plain("kind"), plain(kind)}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if k := root.Content[i].Value; k != "apiVersion" && k != "kind" {
			content = append(content, root.Content[i], root.Content[i+1])
		}
	}
	root.Content = content
}

func plain(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

// tidy leaves out nulls, and the empty sides of rules that Calico's JSON always has, and takes the quotes off text that
// needs none.
func tidy(n *yaml.Node) {
	switch {
	case n.Kind != yaml.ScalarNode:
	case n.Tag == "!!str" && isPlain(n.Value):
		n.Style = 0
	case n.Tag == "!!int":
		n.Tag = "" // the encoder would write it before integers of more than 64 bits, which it takes for something else
	}
	if n.Kind != yaml.MappingNode {
		for _, c := range n.Content {
			tidy(c)
		}
		return
	}
	var kept []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if isNull(v) || emptySide(k.Value, v) {
			continue
		}
		tidy(k)
		if k.Value != "fieldsV1" { // of no known type: null means something there
			tidy(v)
		}
		kept = append(kept, k, v)
	}
	n.Content = kept
}

func emptySide(key string, v *yaml.Node) bool {
	return (key == "source" || key == "destination") && v.Kind == yaml.MappingNode && len(v.Content) == 0
}

// isPlain reports whether text without quotes is text to every YAML reader: it begins with a letter, has only letters,
// digits and a few harmless characters, and is none of the words that YAML 1.1 takes for something else.
func isPlain(s string) bool {
	if s == "" || !('a' <= s[0] && s[0] <= 'z' || 'A' <= s[0] && s[0] <= 'Z') {
		return false
	}
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', strings.IndexByte("-_./", b) >= 0:
		default:
			return false
		}
	}
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null", "inf", "nan":
		return false
	}
	return true
}
