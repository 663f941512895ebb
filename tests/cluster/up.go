package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// cluster is what up prints.
type cluster struct {
	Kubeconfig   string  `json:"kubeconfig"`
	Server       string  `json:"server"`
	Token        string  `json:"token"`
	CAFile       string  `json:"caFile"`
	Dir          string  `json:"dir"`
	ReadySeconds float64 `json:"readySeconds"`
}

const rootCA = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt"

// up runs a control plane: etcd, kube-apiserver and kube-controller-manager. Without --node there is no
// scheduler and no node, so Pods stay Pending, but everything else is real: RBAC, admission,
// ServiceAccount tokens, garbage collection, the deletion of namespaces.
func up(args []string) int {
	flags := flag.NewFlagSet("kube up", flag.ExitOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	dir := flags.String("dir", "", "")
	kubeconfig := flags.String("kubeconfig", "", "")
	port := flags.Int("port", 0, "")
	policy := flags.String("audit-policy", "", "")
	log := flags.String("audit-log", "", "")
	var n node
	n.flags(flags)
	_ = flags.Parse(args)
	if flags.NArg() > 0 {
		return fail("up", fmt.Errorf("unexpected argument %q\n\n%s", flags.Arg(0), usage))
	}
	begin := time.Now()
	self, err := os.Executable()
	if err != nil {
		return fail("up", err)
	}
	s, err := newSession("up", *dir)
	if err != nil {
		return fail("up", err)
	}
	if *kubeconfig == "" {
		*kubeconfig = s.path("kubeconfig")
	}
	audit, err := auditFlags(*policy, *log)
	if err != nil {
		return fail("up", err)
	}
	return s.run(func() (any, error) {
		c, err := startControlPlane(s, self, *kubeconfig, *port, audit)
		if err == nil && n.tools != "" {
			err = n.start(s, self, c)
		}
		if c != nil {
			c.ReadySeconds = math.Round(time.Since(begin).Seconds()*10) / 10
		}
		return c, err
	})
}

// auditFlags are kube-apiserver's own for a log of requests: what the policy asks for, never rotated.
func auditFlags(policy, log string) ([]string, error) {
	if policy == "" && log == "" {
		return nil, nil
	}
	policy, err := filepath.Abs(policy)
	if err != nil {
		return nil, err
	}
	if log, err = filepath.Abs(log); err != nil {
		return nil, err
	}
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + log, "--audit-log-maxsize=10000"}, nil
}

func startControlPlane(s *session, self, kubeconfig string, port int, audit []string) (*cluster, error) {
	kubeconfig, err := filepath.Abs(kubeconfig)
	if err != nil {
		return nil, err
	}
	token, err := s.keep("token", randomText)
	if err != nil {
		return nil, err
	}
	if _, err := s.keep("sa.key", newKey); err != nil {
		return nil, err
	}
	if err := writeSecret(s.path("tokens.csv"), fmt.Appendf(nil, "%s,admin,admin,\"system:masters\"\n", token)); err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		port = ports[0]
	}
	c := &cluster{
		Kubeconfig: kubeconfig,
		Server:     "https://" + loopback(port),
		Token:      string(token),
		// Made by kube-apiserver. It holds the serving certificate and its CA, so it serves as CA bundle.
		CAFile: s.path("certs/apiserver.crt"),
		Dir:    s.dir,
	}
	component := func(name string, args ...string) error {
		return s.start(name, &exec.Cmd{Path: self, Args: append([]string{name}, args...)})
	}

	etcdURL := "http://" + loopback(ports[1])
	if err := component("etcd", s.path("etcd"), etcdURL); err != nil {
		return nil, err
	}
	if err := component("kube-apiserver", append([]string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1", // or else it wants a default route
		fmt.Sprintf("--secure-port=%d", port),
		"--cert-dir=" + s.path("certs"),
		"--authorization-mode=RBAC",
		"--token-auth-file=" + s.path("tokens.csv"),
		"--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + s.path("sa.key"),
		"--service-account-signing-key-file=" + s.path("sa.key"),
	}, audit...)...); err != nil {
		return nil, err
	}
	if err := s.await("kube-apiserver", func() error { return c.get("/readyz") }); err != nil {
		return nil, err
	}
	// The controller manager publishes it again. Without this, what a predecessor in the same folder
	// left behind would look like the work of this one.
	if err := c.request(http.MethodDelete, rootCA); err != nil && !errors.Is(err, errNotFound) {
		return nil, err
	}
	if err := c.writeKubeconfig(); err != nil {
		return nil, err
	}
	if err := component("kube-controller-manager",
		"--kubeconfig="+kubeconfig,
		"--authentication-kubeconfig="+kubeconfig,
		"--authorization-kubeconfig="+kubeconfig,
		"--leader-elect=false",
		"--service-account-private-key-file="+s.path("sa.key"),
		"--root-ca-file="+c.CAFile,
		"--secure-port=0",
	); err != nil {
		return nil, err
	}
	return c, s.await("kube-controller-manager", func() error {
		return errors.Join(c.get(rootCA), c.get("/api/v1/namespaces/default/serviceaccounts/default"))
	})
}

// newKey makes the key that signs ServiceAccount tokens.
func newKey() []byte {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

func (c *cluster) get(path string) error { return c.request(http.MethodGet, path) }

// request asks the API server as admin, and fails unless it answers 200. Only our own API server can:
// no other has this CA.
func (c *cluster) request(method, path string) error {
	ca, err := os.ReadFile(c.CAFile)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	req, err := http.NewRequest(method, c.Server+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	return expectOK(client, req)
}

func (c *cluster) writeKubeconfig() error {
	ca, err := os.ReadFile(c.CAFile)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `apiVersion: v1
kind: Config
clusters:
- name: test
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: admin
  user:
    token: %s
contexts:
- name: test
  context:
    cluster: test
    user: admin
current-context: test
`, c.Server, base64.StdEncoding.EncodeToString(ca), c.Token)
	return writeSecret(c.Kubeconfig, b.Bytes())
}
