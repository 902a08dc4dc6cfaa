// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Build compiles the program of a module of its own, and returns its path. The binary is kept in the user's cache under a
// name made of the module's sources, since some test servers take many minutes to compile.
func Build(t *testing.T, module string) string {
	t.Helper()
	dir, err := filepath.Abs(module)
	require.NoError(t, err)
	sum := sha256.New()
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		sum.Write(data)
	}
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	cache = filepath.Join(cache, "hostpolicy-test")
	require.NoError(t, os.MkdirAll(cache, 0o755))
	out := filepath.Join(cache, filepath.Base(dir)+"-"+hex.EncodeToString(sum.Sum(nil)[:8]))
	if _, err := os.Stat(out); err == nil {
		return out
	}
	temp, err := os.MkdirTemp(cache, "build")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	cmd := exec.Command("go", "build", "-o", filepath.Join(temp, "out"), ".")
	cmd.Dir = dir
	// Outside of the workspace, whose other modules it must not be tied to; GOFLAGS must not say -trimpath.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly -buildvcs=false", "CGO_ENABLED=0")
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	require.NoError(t, os.Rename(filepath.Join(temp, "out"), out))
	return out
}

// Server is a process under test.
type Server struct {
	t    *testing.T
	path string
	args []string
	cmd  *exec.Cmd
	out  *bytes.Buffer
}

// Start starts a server; t kills it, and shows what it said if the test has failed.
func Start(t *testing.T, path string, args ...string) *Server {
	t.Helper()
	s := &Server{t: t, path: path, args: args, out: &bytes.Buffer{}}
	s.start()
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			text := s.out.Bytes()
			t.Logf("%s:\n%s", filepath.Base(path), text[max(0, len(text)-4000):])
		}
	})
	return s
}

func (s *Server) start() {
	s.cmd = exec.Command(s.path, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	require.NoError(s.t, s.cmd.Start())
}

// Kill ends the process with SIGKILL.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// Restart kills the process and starts it again.
func (s *Server) Restart() {
	s.Kill()
	s.start()
}

// FreeAddr returns an address of this host on which nothing listens.
func FreeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
