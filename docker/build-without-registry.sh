#!/usr/bin/env bash
# Builds the image where no registry can be reached: Debian's own Python takes the place of python:*-slim. As root, with
# buildah and debootstrap (apt-get install buildah debootstrap); it needs no daemon and no namespaces of the network.
#   docker/build-without-registry.sh [NAME]      # ai-agent:local; then: buildah images, docker/try-image.sh
set -euo pipefail
cd "$(dirname "$0")/.."
name="${1:-ai-agent:local}"
suite="${SUITE:-trixie}"
base="${BASE:-localhost/python-${suite}:local}"
export STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}" BUILDAH_ISOLATION=chroot

if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    root="$(mktemp -d)"
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$root"
    # As in Debian's slim images.
    rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/usr/share/{doc,man,info,locale}/*
    container="$(buildah from scratch)"
    buildah add --quiet "$container" "$root" /
    buildah config --env LANG=C.UTF-8 "$container"
    buildah commit --quiet --rm "$container" "$base"
fi

# Where packages come from, and who is trusted there, is the machine's business: lent to the build, and no part of the image.
uv_settings="$(mktemp)"
trap 'rm -rf "${root:-}" "$uv_settings"' EXIT
echo 'system-certs = true' > "$uv_settings"
lent=(--volume "$uv_settings:/etc/uv/uv.toml:ro")
for file in /etc/pip.conf /etc/ssl/certs; do
    if [ -e "$file" ]; then lent+=(--volume "$file:$file:ro"); fi
done
buildah bud --quiet --format docker --layers --network host --build-arg "PYTHON_IMAGE=$base" "${lent[@]}" -f docker/Dockerfile -t "$name" .
