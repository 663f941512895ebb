package main

import (
	"fmt"
	"net/url"
	"os"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcd serves clients on args[1] (http://127.0.0.1:PORT) with its data in the folder args[0], until it
// fails or is killed. It does not fsync: fast, and its data survives a killed process, but not a
// crashed machine.
func etcd(args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: etcd DIR http://127.0.0.1:PORT")
		return 2
	}
	if err := serveEtcd(args[0], args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
	}
	return 1
}

func serveEtcd(dir, clientURL string) error {
	client, err := url.Parse(clientURL)
	if err != nil {
		return err
	}
	// A single member has no peers, but etcd wants a peer listener.
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.UnsafeNoFsync, cfg.LogLevel = dir, true, "error"
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	select {
	case err := <-server.Err():
		return err
	case <-server.Server.StopNotify():
		return fmt.Errorf("the server has stopped")
	}
}
