// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/agent/agenttest"
)

// The traffic: UDP that the policies allow, UDP that none does, and TCP connections that go on all the time.
const (
	allowedPort, deniedPort, tcpPort = 7000, 9000, 7001
	connections                      = 16
)

// seen is what became of the traffic.
type seen struct {
	Sent, Arrived [2]int64 // allowed, denied
	Queue         int64    // of the allowed: what the socket had no room for
	Link          int64    // what interfaces and their queues lost
	Echoes        int64
	Broken        []string // connections, and why
}

// lost is how many packets of the allowed flow nothing but a verdict can have taken.
func (s *seen) lost() int64 { return s.Sent[0] - s.Arrived[0] - s.Queue - s.Link }

// traffic is a process of its own, so that the agent's time is the agent's.
type traffic struct {
	testing.TB
	cmd    *exec.Cmd
	stdin  io.Closer
	result string
}

const trafficEnv = "HOSTPOLICY_TEST_TRAFFIC"

func startTraffic(t testing.TB, m *agenttest.Machine) *traffic {
	tr := &traffic{TB: t, result: filepath.Join(t.TempDir(), "result")}
	tr.cmd = exec.Command(os.Args[0], "-test.run=^TestTraffic$", "-test.timeout=1h")
	tr.cmd.Env = append(os.Environ(), trafficEnv+"="+tr.result)
	tr.cmd.ExtraFiles = []*os.File{m.Host, m.Peer}
	tr.cmd.Stderr = os.Stderr
	var err error
	tr.stdin, err = tr.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := tr.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, tr.cmd.Start())
	t.Cleanup(func() { _ = tr.cmd.Process.Kill() })
	_, err = out.Read(make([]byte, 1)) // it runs
	require.NoError(t, err)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return tr
}

// stop ends the traffic and returns what became of it.
func (tr *traffic) stop() *seen {
	require.NoError(tr, tr.stdin.Close())
	require.NoError(tr, tr.cmd.Wait())
	data, err := os.ReadFile(tr.result)
	require.NoError(tr, err)
	s := &seen{}
	require.NoError(tr, json.Unmarshal(data, s))
	return s
}

// TestTraffic is the process; it is nothing by itself.
func TestTraffic(t *testing.T) {
	result := os.Getenv(trafficEnv)
	if result == "" {
		return
	}
	g := &generator{T: t, host: os.NewFile(3, "host"), peer: os.NewFile(4, "peer"), stop: make(chan struct{})}
	before := g.linkDrops()
	g.start()
	fmt.Print("\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
	close(g.stop)
	g.wg.Wait()
	s := g.settle()
	s.Link = g.linkDrops() - before
	data, err := json.Marshal(s)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(result, data, 0o600))
}

// generator sends and receives.
type generator struct {
	*testing.T
	host, peer *os.File
	stop       chan struct{}
	wg         sync.WaitGroup
	sent       [2]atomic.Int64
	arrived    [2]atomic.Int64
	echoes     atomic.Int64
	mu         sync.Mutex
	broken     []string
}

func (g *generator) start() {
	g.receive(allowedPort, &g.arrived[0])
	g.receive(deniedPort, &g.arrived[1])
	for i, port := range []int{allowedPort, deniedPort} {
		g.send(port, &g.sent[i])
	}
	var l net.Listener
	agenttest.In(g, g.host, func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf("10.9.0.1:%d", tcpPort))
		return err
	})
	g.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	for range connections {
		var c net.Conn
		agenttest.In(g, g.peer, func() (err error) {
			c, err = net.Dial("tcp4", fmt.Sprintf("10.9.0.1:%d", tcpPort))
			return err
		})
		g.wg.Go(func() { defer c.Close(); g.echo(c) })
	}
}

// receive counts what arrives. The socket has room for some seconds during which nobody reads.
func (g *generator) receive(port int, count *atomic.Int64) {
	var c *net.UDPConn
	agenttest.In(g, g.host, func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 9, 0, 1), Port: port})
		return err
	})
	raw, err := c.SyscallConn()
	require.NoError(g, err)
	require.NoError(g, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	}))
	require.NoError(g, err)
	g.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if count.Add(1) == 1 {
				_, _ = c.WriteToUDPAddrPort(b[:1], from) // the flow is established
			}
		}
	}()
}

func (g *generator) send(port int, count *atomic.Int64) {
	var c net.PacketConn
	agenttest.In(g, g.peer, func() (err error) {
		c, err = net.ListenPacket("udp4", "10.9.0.2:0")
		return err
	})
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("10.9.0.1"), uint16(port)))
	g.wg.Go(func() {
		defer c.Close()
		msgs := make([]ipv4.Message, 32)
		for i := range msgs {
			msgs[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 18)}, Addr: to}
		}
		pc := ipv4.NewPacketConn(c)
		const perSecond = 12_000
		begun := time.Now()
		for {
			select {
			case <-g.stop:
				return
			default:
			}
			if float64(count.Load()) > time.Since(begun).Seconds()*perSecond {
				time.Sleep(time.Millisecond)
				continue
			}
			n, _ := pc.WriteBatch(msgs, 0) // what was sent before an error was sent
			count.Add(int64(max(n, 0)))
		}
	})
}

// echo keeps a connection busy. An answer that takes long enough for data to be lost and sent again many times is a
// connection that was broken.
func (g *generator) echo(c net.Conn) {
	out, in := make([]byte, 64), make([]byte, 64)
	for i := byte(0); ; i++ {
		select {
		case <-g.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		out[0] = i
		_ = c.SetDeadline(time.Now().Add(wait))
		_, err := c.Write(out)
		if err == nil {
			_, err = io.ReadFull(c, in)
		}
		if err == nil && in[0] != i {
			err = fmt.Errorf("answer %d to %d", in[0], i)
		}
		if err != nil {
			g.mu.Lock()
			g.broken = append(g.broken, err.Error())
			g.mu.Unlock()
			return
		}
		g.echoes.Add(1)
	}
}

// settle waits until everything that is on its way has arrived or was lost.
func (g *generator) settle() *seen {
	s := &seen{Broken: g.broken}
	for quiet := 0; quiet < 5; time.Sleep(100 * time.Millisecond) {
		s.Sent, s.Echoes = [2]int64{g.sent[0].Load(), g.sent[1].Load()}, g.echoes.Load()
		now := [2]int64{g.arrived[0].Load(), g.arrived[1].Load()}
		if quiet++; now != s.Arrived {
			quiet = 0
		}
		s.Arrived = now
	}
	agenttest.In(g, g.host, func() error {
		data, err := os.ReadFile("/proc/thread-self/net/udp")
		for _, line := range strings.Split(string(data), "\n") {
			f := strings.Fields(line)
			if len(f) < 13 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", allowedPort)) {
				continue
			}
			if s.Queue, err = strconv.ParseInt(f[12], 10, 64); err != nil {
				return err
			}
			return nil
		}
		return fmt.Errorf("no socket: %w", err)
	})
	return s
}

// linkDrops returns what the interfaces on both sides have lost.
func (g *generator) linkDrops() int64 {
	sum := int64(0)
	for _, ns := range []*os.File{g.host, g.peer} {
		agenttest.In(g, ns, func() error {
			data, err := os.ReadFile("/proc/thread-self/net/dev")
			for _, line := range strings.Split(string(data), "\n") {
				_, counts, ok := strings.Cut(line, ":")
				if f := strings.Fields(counts); ok && len(f) == 16 {
					for _, at := range []int{3, 11} { // Ref: linux net/core/net-procfs.c
						n, err := strconv.ParseInt(f[at], 10, 64)
						if err != nil {
							return err
						}
						sum += n
					}
				}
			}
			return err
		})
	}
	return sum
}
