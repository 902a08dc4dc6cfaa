// SPDX-License-Identifier: Apache-2.0

// Package nftnotice tells what transactions of nftables change, by nft itself, by iptables-nft, and by anybody else. It
// is of use on Linux only.
package nftnotice
