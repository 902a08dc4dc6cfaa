// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/store/kube"
)

func crdsCommand(out *output) *cobra.Command {
	var native, roles bool
	cmd := &cobra.Command{
		Use: "crds", Short: "Show or install what Kubernetes needs to hold the resources",
		Long: `crds prints the definitions of the custom resources, for kubectl apply -f -; hep crds install creates them. A cluster
with Calico has its own.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text := kube.StorageCRDs
			if native {
				text = kube.NativeCRDs
			}
			fmt.Fprintf(out.out, "%s", text)
			if roles {
				fmt.Fprintf(out.out, "---\n%s", kube.RBAC)
			}
			return nil
		},
	}
	cmd.PersistentFlags().BoolVar(&native, "native", false, "projectcalico.org/v3 instead of crd.projectcalico.org/v1")
	cmd.PersistentFlags().BoolVar(&roles, "roles", false, "the cluster roles hostpolicy-reader and hostpolicy-writer too")

	var ds datastore
	var timeout time.Duration
	var dry bool
	install := &cobra.Command{
		Use: "install --datastore kube[:CONTEXT]", Short: "Create the custom resources in a cluster",
		Long: `install creates the definitions, or brings those that it created before to their present form, and waits until the server
serves them. Definitions that others created, Calico's above all, are kept as they are.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, ok, err := ds.kube()
			if err != nil {
				return answer(err)
			}
			if !ok {
				return errors.New("give --datastore kube or kube:CONTEXT")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			done, err := kube.Install(ctx, cfg, kube.InstallOptions{Native: native, Roles: roles, DryRun: dry})
			trial := ""
			if dry {
				trial = " (dry run)"
			}
			var rows [][]cell
			for _, d := range done {
				if out.format != "table" {
					if err := out.value(d); err != nil {
						return err
					}
					continue
				}
				st := dim
				switch d.Action {
				case kube.Created, kube.Updated:
					st = green
				case kube.Kept:
					st = yellow
				}
				rows = append(rows, []cell{{d.Kind, plain}, {d.Name, cyan}, {string(d.Action) + trial, st}})
			}
			if len(rows) > 0 {
				out.table([]string{"KIND", "NAME", "ACTION"}, rows)
			}
			return answer(err)
		},
	}
	install.Flags().StringVar(&ds.at, "datastore", "kube", "the cluster: kube[:CONTEXT]")
	install.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait until they are served")
	install.Flags().BoolVar(&dry, "dry-run", false, "have the server check everything and change nothing")
	cmd.AddCommand(install)
	return cmd
}
