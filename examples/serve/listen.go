// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Listen answers at an address until ctx ends: a host and a port, or "unix:" and the path of a socket, which only its
// owner may use. Ready, if it is not nil, is called with the address that it listens at.
func Listen(ctx context.Context, address string, h http.Handler, ready func(net.Addr)) error {
	l, err := listen(address)
	if err != nil {
		return err
	}
	if ready != nil {
		ready(l.Addr())
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if s.Shutdown(end) != nil {
			_ = s.Close()
		}
	})
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// Start listens at addresses until ctx ends, also if it cannot at some of them, which is logged; "" is none. The function
// waits for the end.
func Start(ctx context.Context, o Options, addresses ...string) (ended func()) {
	var wg sync.WaitGroup
	h := Handler(o)
	for _, at := range addresses {
		if at == "" {
			continue
		}
		wg.Go(func() {
			if err := Listen(ctx, at, h, nil); err != nil && o.Logger != nil {
				o.Logger.Error("not answering", "at", at, "error", err)
			}
		})
	}
	return wg.Wait
}

func listen(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return net.Listen("tcp", address)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// A socket of a process that was killed is in the way; one that somebody answers at is not ours to take.
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s: another process listens there", path)
	} else if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// maxAnswer bounds what Get reads.
const maxAnswer = 64 << 20

// Get returns what is answered at an address, in the form that Listen takes, for a path such as "/status".
func Get(ctx context.Context, address, path string) ([]byte, error) {
	t := &http.Transport{DisableKeepAlives: true}
	host := address
	if socket, ok := strings.CutPrefix(address, "unix:"); ok {
		host = "agent"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Transport: t}).Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status + ": " + strings.TrimSpace(string(body)))
	}
	return body, err
}
