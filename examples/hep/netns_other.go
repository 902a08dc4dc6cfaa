// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "errors"

func netnsID(string) (string, error) { return "", errors.New("network namespaces are Linux's") }
