#!/usr/bin/env bash
# What: crane of go-containerregistry v0.22.1.
#
# `crane pull` writes a tarball by default, and `crane push` of that tarball does not restore the
# image: of an OCI image it makes a Docker one. Layers and config are the same bytes, but the manifest
# gets Docker's media types, so the image has another digest. Signatures, attestations and pinned
# digests of the image no longer match, with no message. Through an OCI layout (--format=oci), the
# digest stays.
#
# Who meets it: users who move images to a private or air-gapped registry by tarball and pin or
# verify them by digest. docs/how-to/release.md says which commands keep the digest.
#
# Needs Go and network access to the Go module proxy. Exits non-zero if the behaviour changes.
set -euo pipefail
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$dir"' EXIT
GOBIN=$dir GOFLAGS=-mod=mod go install github.com/google/go-containerregistry/cmd/crane@v0.22.1
crane=$dir/crane at=127.0.0.1:15123/demo
"$crane" registry serve --address 127.0.0.1:15123 >"$dir/registry.log" 2>&1 &
for _ in $(seq 50); do "$crane" catalog 127.0.0.1:15123 >/dev/null 2>&1 && break; sleep 0.1; done

echo hello >"$dir/hello"
tar -C "$dir" -cf "$dir/layer.tar" hello
"$crane" append --oci-empty-base --new_layer "$dir/layer.tar" --new_tag "$at/original:1" >/dev/null 2>&1
"$crane" pull "$at/original:1" "$dir/image.tar"
"$crane" push "$dir/image.tar" "$at/by-tarball:1" >/dev/null 2>&1
"$crane" pull --format=oci "$at/original:1" "$dir/layout"
"$crane" push "$dir/layout" "$at/by-layout:1" >/dev/null 2>&1

for image in original by-tarball by-layout; do
	type=$("$crane" manifest "$at/$image:1" | grep -o '"mediaType":"[^"]*manifest[^"]*"')
	echo "$image: $("$crane" digest "$at/$image:1") $type"
done
original=$("$crane" digest "$at/original:1")
[ "$("$crane" digest "$at/by-layout:1")" = "$original" ] || { echo "changed: a layout has another digest"; exit 1; }
[ "$("$crane" digest "$at/by-tarball:1")" != "$original" ] || { echo "changed: a tarball keeps the digest"; exit 1; }
# Seen: original and by-layout sha256:… application/vnd.oci.image.manifest.v1+json, by-tarball another
# digest, application/vnd.docker.distribution.manifest.v2+json.
echo "as seen with v0.22.1"
