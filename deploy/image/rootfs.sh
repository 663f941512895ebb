#!/usr/bin/env bash
# rootfs.sh BINARY DIR: makes DIR the root of an image that runs BINARY: with it only what it is linked to, the certificate
# authorities, and a user. From Debian's packages of this release, checked and unpacked by apt and dpkg; needs no root.
set -euo pipefail
umask 022

binary=$1 root=$2
downloads=${BATCHJOB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/batchjob-operator}/packages

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  echo "An image is made of Debian's packages, and this machine has no apt: build it on Debian 12, or with the Dockerfile." >&2
  exit 1
fi
rm -rf "$root"
mkdir -p "$root" "$downloads"
root=$(cd "$root" && pwd)

# What lies there with the right checksum is not fetched again.
fetch() {
  # The last holds libgcc's licence; the compiler's version is part of its name.
  packages=(libc6 libgcc-s1 ca-certificates "$(apt-cache depends libgcc-s1 | sed -n 's/^ *Depends: \(gcc-[0-9]*-base\)$/\1/p')")
  (cd "$downloads" && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" >&2)
}
if ! fetch; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "Debian's packages cannot be fetched. If apt's lists are old: sudo apt-get update" >&2
    exit 1
  fi
  apt-get update -qq >&2
  fetch
fi

# Where scanners look for what an image is made of, one file a package.
mkdir -p "$root/var/lib/dpkg/status.d"
apt-get download --print-uris "${packages[@]}" | while read -r _ file _; do
  # Licences stay; conversions between character sets, translations and manuals go.
  dpkg-deb --fsys-tarfile "$downloads/$file" | tar -xp --no-same-owner -C "$root" --wildcards \
    --exclude='./usr/lib/*/gconv' --exclude='./usr/sbin' --exclude='./usr/share/man' --exclude='./usr/share/locale' \
    --exclude='./usr/share/lintian' --exclude='./usr/share/doc/*/[!c]*' --exclude='./usr/share/doc/*/c[!o]*'
  dpkg-deb --field "$downloads/$file" >"$root/var/lib/dpkg/status.d/${file%%_*}"
done

# As update-ca-certificates would write it.
(cd "$root/usr/share/ca-certificates/mozilla" && LC_ALL=C && cat -- *.crt) >"$root/etc/ssl/certs/ca-certificates.crt"
rm -r "$root/usr/share/ca-certificates" "$root/etc/ca-certificates"

cat >"$root/etc/passwd" <<E
root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/:/sbin/nologin
E
cat >"$root/etc/group" <<E
root:x:0:
nonroot:x:65532:
E
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
mkdir -m 1777 "$root/tmp"
install -D -m 755 "$binary" "$root/usr/local/bin/batchjob-operator"
