// SPDX-License-Identifier: Apache-2.0

// Command agent is a complete node agent: it follows Calico's host endpoints, profiles and policies in a datastore and the
// interfaces of this host, and has the kernel enforce them. hostpolicy-agent.service runs it under systemd, and
// hostpolicy-boot.service loads what it enforced last before the network is up.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/confirm"
	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/backends/liveflow"
	"github.com/hostpolicy/hostpolicy/backends/netif"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/etcd"
	"github.com/hostpolicy/hostpolicy/backends/store/file"
	"github.com/hostpolicy/hostpolicy/backends/store/kube"
	"github.com/hostpolicy/hostpolicy/examples/serve"
)

// config is what the flags say.
type config struct {
	agent.Options
	datastore string
	backend   string
	table     string
	node      string
	state     string
	confirm   time.Duration
	listen    string
	gate      liveflow.Options
	watchdog  bool
}

func flags(args []string, errs io.Writer) (*config, error) {
	c := &config{}
	f := flag.NewFlagSet("agent", flag.ContinueOnError)
	f.SetOutput(errs)
	f.StringVar(&c.datastore, "datastore", "file:/etc/hostpolicy", "file:DIR, etcd:URL[,URL...], or kube:[KUBECONFIG] (inside a cluster without one)")
	f.StringVar(&c.backend, "backend", "nftables", "nftables, iptables (of the variant that the host uses) or ebpf")
	f.StringVar(&c.table, "table", "", "table of nftables, prefix of iptables, or table beside eBPF, to tell several agents of one host apart")
	f.StringVar(&c.node, "node", "", "name of this node; default: the host name in lower case")
	f.StringVar(&c.state, "state", "/run/hostpolicy/agent", "directory for what waits to be confirmed, for last good versions, and for the socket of the agent")
	f.DurationVar(&c.confirm, "confirm", 0, "revert changes of rules unless SIGUSR1 confirms them within this time")
	f.StringVar(&c.BootFile, "boot-file", "", "where to write what early boot loads, such as /var/lib/hostpolicy/boot")
	f.TextVar(&c.OnStop, "on-stop", agent.Leave, "what to leave in the kernel: leave, failsafes-only or open")
	f.TextVar(&c.Unsynced, "unsynced", agent.Leave, "what to enforce before the datastore was read")
	f.TextVar(&c.Stale, "stale", agent.Leave, "what to enforce when the datastore was out of reach for -stale-after")
	f.DurationVar(&c.StaleAfter, "stale-after", 5*time.Minute, "see -stale")
	f.DurationVar(&c.DriftEvery, "drift-every", time.Minute, "how often to compare the kernel with what was applied")
	f.BoolVar(&c.AlertOnly, "alert-only", false, "report what others do to the rules, and do not mend it")
	f.StringVar(&c.listen, "listen", "", "serve status, health, counters and metrics over HTTP here as well, such as 127.0.0.1:9091")
	f.BoolVar(&c.gate.Force, "force", false, "apply also what would cut ssh, datastore, API server or name servers off")
	f.Func("flows", "what becomes of flows that are under way: keep (default), cut-denied or cut-all", func(s string) (err error) {
		c.gate.Fate, err = liveflow.ParseFate(s)
		return err
	})
	f.BoolVar(&c.watchdog, "watchdog", false, "revert what nobody confirms; the agent starts such a process itself")
	verbose := f.Bool("v", false, "log every generation")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	c.Name = filepath.Base(c.state)
	c.Logger = slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: level}))
	c.StateDir, c.gate.Logger = c.state, c.Logger
	return c, nil
}

// openStore connects to the datastore. The function releases it, after the context has ended.
func (c *config) openStore(ctx context.Context) (store.Store, func(), error) {
	kind, at, _ := strings.Cut(c.datastore, ":")
	o := store.Options{Log: c.Logger}
	switch kind {
	case "file":
		d, err := file.Open(ctx, at, file.Options{Log: c.Logger})
		if err != nil {
			return nil, nil, err
		}
		return store.New(d, o), func() { <-d.Done() }, nil
	case "etcd":
		d, err := etcd.Open(etcd.Config{Endpoints: strings.Split(at, ","), CAFile: os.Getenv("ETCD_CA_CERT_FILE"), CertFile: os.Getenv("ETCD_CERT_FILE"), KeyFile: os.Getenv("ETCD_KEY_FILE")})
		if err != nil {
			return nil, nil, err
		}
		return store.New(d, o), func() { _ = d.Close() }, nil
	case "kube":
		d, err := kube.Open(kube.Config{Kubeconfig: at})
		if err != nil {
			return nil, nil, err
		}
		return store.New(d, o), func() {}, nil
	}
	return nil, nil, fmt.Errorf("-datastore %q: want file:DIR, etcd:URL or kube:FILE", c.datastore)
}

func (c *config) openBackend() (backends.Backend, error) {
	switch c.backend {
	case "nftables":
		o := nftables.Options{Logger: c.Logger}
		o.Render.Table, o.Render.Counters = c.table, true
		return nftables.New(o)
	case "iptables":
		o := iptables.Options{Logger: c.Logger}
		o.Render.Prefix = c.table
		return iptables.New(o)
	case "ebpf":
		return ebpf.New(ebpf.Options{Table: c.table, Logger: c.Logger})
	}
	return nil, fmt.Errorf("-backend %q: want nftables, iptables or ebpf", c.backend)
}

func run(ctx context.Context, args []string, errs io.Writer) error {
	c, err := flags(args, errs)
	if err != nil {
		return err
	}
	if c.Backend, err = c.openBackend(); err != nil {
		return err
	}
	if x, ok := c.Backend.(io.Closer); ok {
		defer x.Close()
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if c.watchdog {
		return confirm.Watch(os.Stdin, os.Stdout, c.Backend, confirm.Options{Dir: c.state, Logger: c.Logger})
	}
	c.Guard, err = confirm.New(ctx, c.Backend, confirm.Options{
		Dir: c.state, Logger: c.Logger, Command: []string{self, "-watchdog", "-backend", c.backend, "-table", c.table, "-state", c.state},
	})
	if err != nil {
		return err
	}
	c.Confirm = agent.OfResources(c.confirm)
	storeCtx, endStore := context.WithCancel(context.WithoutCancel(ctx))
	s, closeStore, err := c.openStore(storeCtx)
	if err != nil {
		endStore()
		return err
	}
	defer func() { endStore(); closeStore() }()
	c.Store = s
	if c.Host, err = netif.New(netif.Options{Node: c.node, Logger: c.Logger}); err != nil {
		return err
	}
	if c.Gate, err = liveflow.NewGate(c.gate); err != nil {
		return err
	}
	a, err := agent.New(c.Options)
	if err != nil {
		return err
	}
	ended := serve.Start(ctx, serve.Options{Agent: a, Backend: c.Backend, Logger: c.Logger}, "unix:"+filepath.Join(c.state, "agent.sock"), c.listen)
	defer ended()
	confirmed := make(chan os.Signal, 1)
	signal.Notify(confirmed, syscall.SIGUSR1)
	defer func() { signal.Stop(confirmed); close(confirmed) }()
	go func() {
		for range confirmed {
			c.Logger.Info("asked to confirm", "error", a.Confirm(ctx))
		}
	}()
	return a.Run(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}
