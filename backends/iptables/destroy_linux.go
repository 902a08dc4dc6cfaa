// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"errors"
	"strings"
	"time"
)

// destroySets destroys sets, and returns how many commands that took. Those that cannot be destroyed it gives to failed;
// the error is that of ctx.
func (b *Backend) destroySets(ctx context.Context, op string, names []string, failed func(name string, err error)) (n int, err error) {
	if len(names) == 0 {
		return 0, nil
	}
	destroy := func(names ...string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		var del script
		for _, name := range names {
			del.text = append(del.text, "destroy "+name+"\n"...)
		}
		n += len(names)
		return b.tools.ipset(ctx, op, &del)
	}
	err = destroy(names...)
	for range 3 {
		if !says(err, "in use") {
			break
		}
		// The kernel may be late to forget the rules that used it.
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
		err = destroy(names...)
	}
	if err == nil || ctx.Err() != nil {
		return n, ctx.Err()
	}
	for _, name := range names { // one of them, or some
		if err := destroy(name); ctx.Err() != nil {
			return n, ctx.Err()
		} else if err != nil && !says(err, "does not exist") {
			failed(name, err)
		}
	}
	return n, nil
}

// says reports whether a command failed with such a text.
func says(err error, text string) bool {
	var e *Error
	return errors.As(err, &e) && strings.Contains(e.Text, text)
}
