// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"net"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Server is a process under test.
type Server struct {
	t    testing.TB
	path string
	args []string
	cmd  *exec.Cmd
	out  *bytes.Buffer
}

// Start starts a server; t kills it, and shows what it said if the test has failed.
func Start(t testing.TB, path string, args ...string) *Server {
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
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
