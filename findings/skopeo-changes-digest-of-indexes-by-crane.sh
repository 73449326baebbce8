#!/usr/bin/env bash
# What: crane of go-containerregistry v0.22.1, and skopeo 1.9.3 of Debian 12.
#
# go-containerregistry writes artifactType, with the type of the config, for each image in an index that
# it makes, as `crane index append` and mutate.AppendManifests do. skopeo 1.9.3 drops that field when it
# copies the index with --all. So the index gets another digest, with no message; with
# --preserve-digests the copy fails with "Manifest list must be converted to type ... but we cannot modify
# it". The images in the index keep theirs.
#
# Who meets it: users who make images for several architectures with crane or this library, mirror
# them with skopeo, and pin or verify them by digest. internal/oci writes indexes without the field.
#
# Needs Debian 12 or its apt sources, Go and network access to the Go module proxy; no root. Exits non-zero
# if the behaviour changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
GOBIN=$dir GOFLAGS=-mod=mod go install github.com/google/go-containerregistry/cmd/crane@v0.22.1
crane=$dir/crane at=127.0.0.1:15124/demo
(cd "$dir" && apt-get download -q skopeo libgpgme11 libassuan0 libdevmapper1.02.1 >/dev/null && for deb in *.deb; do dpkg-deb -x "$deb" root; done)
skopeo() { LD_LIBRARY_PATH=$(echo "$dir"/root/usr/lib/*-linux-gnu):$(echo "$dir"/root/lib/*-linux-gnu) "$dir/root/usr/bin/skopeo" --insecure-policy "$@"; }
"$crane" registry serve --address 127.0.0.1:15124 >"$dir/registry.log" 2>&1 &
for _ in $(seq 50); do "$crane" catalog 127.0.0.1:15124 >/dev/null 2>&1 && break; sleep 0.1; done

echo hello >"$dir/hello"
tar -C "$dir" -cf "$dir/layer.tar" hello
"$crane" append --oci-empty-base --new_layer "$dir/layer.tar" --new_tag "$at:layer" >/dev/null 2>&1
for arch in amd64 arm64; do "$crane" mutate "$at:layer" --set-platform "linux/$arch" -t "$at:$arch" >/dev/null 2>&1; done
"$crane" index append -m "$at:amd64" -m "$at:arm64" -t "$at:index" >/dev/null 2>&1
skopeo copy -q --all --src-tls-verify=false --dest-tls-verify=false "docker://$at:index" "docker://$at:copy"
refused=$(skopeo copy -q --all --preserve-digests --src-tls-verify=false --dest-tls-verify=false "docker://$at:index" "docker://$at:kept" 2>&1) || true

skopeo --version
for image in index copy; do
	echo "$image: $("$crane" digest "$at:$image") with $("$crane" manifest "$at:$image" | grep -o artifactType | wc -l) times artifactType"
done
echo "with --preserve-digests: $refused"
[ "$("$crane" digest "$at:index")" != "$("$crane" digest "$at:copy")" ] || { echo "changed: the copy has the digest of the index"; exit 1; }
[[ $refused == *"we cannot modify it"* ]] || { echo "changed: digests can be preserved"; exit 1; }
# Seen: index sha256:… with 2 times artifactType, copy another digest with 0 times.
echo "as seen with crane v0.22.1 and skopeo 1.9.3"
