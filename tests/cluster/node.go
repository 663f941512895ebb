package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// hostAddress is where Pods reach this machine. It is the first of the Service addresses: that of the
// API server, to which Pods are told to go (there is no kube-proxy), and its certificate names it.
const hostAddress = "10.0.0.1"

const nodeName = "node"

// node is a machine of the cluster: containerd, runc and a kubelet in namespaces of their own. Its
// processes, mounts and network interfaces are gone with the first of these processes, which dies with
// us; only cgroups are left for somebody to remove (see cgroups.go).
type node struct {
	tools  string // the folder that node.sh prints
	images []string
	expose []int

	dir   string
	first int // process id of who holds the namespaces
}

func (n *node) flags(flags *flag.FlagSet) {
	flags.StringVar(&n.tools, "node", "", "")
	flags.Func("image", "", func(file string) error {
		file, err := filepath.Abs(file)
		n.images = append(n.images, file)
		return err
	})
	flags.Func("expose", "", func(text string) error {
		port, err := strconv.Atoi(text)
		n.expose = append(n.expose, port)
		return err
	})
}

// start returns when the node is ready.
func (n *node) start(s *session, self string, c *cluster) error {
	n.dir = s.path("node")
	if err := os.RemoveAll(n.dir); err != nil {
		return err
	}
	if err := os.Mkdir(n.dir, 0o755); err != nil {
		return err
	}
	sweepCgroups()
	group := cgroupOf(os.Getpid())
	s.cleanup = func() { removeCgroups(group) }
	if err := makeCgroups(group); err != nil {
		return err
	}
	if err := s.start("kube-scheduler", &exec.Cmd{Path: self, Args: []string{"kube-scheduler",
		"--kubeconfig=" + c.Kubeconfig,
		"--authentication-kubeconfig=" + c.Kubeconfig,
		"--authorization-kubeconfig=" + c.Kubeconfig,
		"--leader-elect=false",
		"--secure-port=0",
	}}); err != nil {
		return err
	}
	if err := n.enter(s); err != nil {
		return err
	}
	if err := n.exposePorts(c); err != nil {
		return err
	}
	if err := n.startContainerd(s); err != nil {
		return err
	}
	return n.startKubelet(s, self, c, group)
}

// enter makes the namespaces. What the node's programs write outside of their folders goes to memory.
func (n *node) enter(s *session) error {
	ready := filepath.Join(n.dir, "ready")
	script := fmt.Sprintf(`set -e
		for dir in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 node $dir; done
		ip link set lo up
		ip address add %s/32 dev lo
		touch %q
		sleep infinity & wait`, hostAddress, ready)
	unshare := exec.Command("unshare", "--mount", "--mount-proc", "--pid", "--net", "--ipc", "--uts",
		"--fork", "--kill-child", "--", "bash", "-c", script)
	if err := s.start("node", unshare); err != nil {
		return err
	}
	n.first = unshare.Process.Pid
	return s.await("the node's namespaces", func() error {
		_, err := os.Stat(ready)
		return err
	})
}

// command is a program in the node's namespaces.
func (n *node) command(program string, args ...string) *exec.Cmd {
	proc := fmt.Sprintf("/proc/%d/ns/", n.first)
	enter := []string{"--mount=" + proc + "mnt", "--pid=" + proc + "pid_for_children", "--net=" + proc + "net",
		"--ipc=" + proc + "ipc", "--uts=" + proc + "uts", "--", program}
	cmd := exec.Command("nsenter", append(enter, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+n.tools+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	return cmd
}

func (n *node) exposePorts(c *cluster) error {
	namespace := fmt.Sprintf("/proc/%d/ns/net", n.first)
	if err := forward(namespace, hostAddress+":443", strings.TrimPrefix(c.Server, "https://")); err != nil {
		return err
	}
	for _, port := range n.expose {
		if err := forward(namespace, fmt.Sprintf("%s:%d", hostAddress, port), loopback(port)); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) startContainerd(s *session) error {
	if err := n.write("containerd.toml", `version = 3
root = "DIR/root"
state = "DIR/state"
[grpc]
  address = "DIR/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "native" # overlayfs is not everywhere
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "DIR/cni"
`); err != nil {
		return err
	}
	if err := n.write("cni/10-pods.conflist", `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods", "isGateway": true, "ipam": {"type": "host-local", "dataDir": "DIR/ipam",
   "ranges": [[{"subnet": "10.1.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`); err != nil {
		return err
	}
	if err := s.start("containerd", n.command("containerd", "--config", n.path("containerd.toml"))); err != nil {
		return err
	}
	ctr := func(args ...string) error {
		out, err := n.command("ctr", append([]string{"--address", n.path("containerd.sock"), "--namespace", "k8s.io"},
			args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ctr %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	if err := s.await("containerd", func() error { return ctr("version") }); err != nil {
		return err
	}
	for _, image := range append([]string{filepath.Join(n.tools, "pause.tar")}, n.images...) {
		if err := ctr("images", "import", "--local", "--snapshotter", "native", image); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) startKubelet(s *session, self string, c *cluster, group string) error {
	config := `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /GROUP
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix://DIR/containerd.sock
podLogsDir: DIR/logs
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
address: 127.0.0.1
healthzPort: 0
makeIPTablesUtilChains: false
failSwapOn: false
clusterDNS: [10.0.0.10] # nobody is there: Pods of the tests go to addresses
evictionHard: {memory.available: 1Mi}
`
	if err := n.write("kubelet.yaml", strings.ReplaceAll(config, "GROUP", group)); err != nil {
		return err
	}
	kubeconfig, err := os.ReadFile(c.Kubeconfig)
	if err != nil {
		return err
	}
	kubeconfig = bytes.ReplaceAll(kubeconfig, []byte(c.Server), []byte("https://"+hostAddress))
	if err := writeSecret(n.path("kubeconfig"), kubeconfig); err != nil {
		return err
	}
	if err := s.start("kubelet", n.command(filepath.Join(filepath.Dir(self), "kubelet"),
		"--config="+n.path("kubelet.yaml"),
		"--kubeconfig="+n.path("kubeconfig"),
		"--root-dir="+n.path("kubelet"),
		"--hostname-override="+nodeName,
		"--node-ip="+hostAddress,
	)); err != nil {
		return err
	}
	return s.await("the node", func() error {
		ready := exec.Cmd{Path: self, Args: []string{"kubectl", "--kubeconfig=" + c.Kubeconfig,
			"wait", "--for=condition=Ready", "node/" + nodeName, "--timeout=0s"}}
		if out, err := ready.CombinedOutput(); err != nil {
			return fmt.Errorf("%s", bytes.TrimSpace(out))
		}
		return nil
	})
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

// write puts a file into the node's folder, whose path replaces DIR.
func (n *node) write(name, text string) error {
	if err := os.MkdirAll(filepath.Dir(n.path(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(n.path(name), []byte(strings.ReplaceAll(text, "DIR", n.dir)), 0o644)
}
