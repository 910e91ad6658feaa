#!/usr/bin/env bash
# triton-image.sh OUT BACKENDS [CACHE]: a container image laid out as NVIDIA's Triton image
# (/opt/tritonserver/{bin,lib,backends,caches}; CPU only), made of PyPI's nvidia-pytriton (a real
# tritonserver 2.51 and its python backend), PyPI's onnxruntime and Debian bookworm's python3.11.
# BACKENDS: a folder of python-based backends (onnxruntime/model.py, ...), copied in.
# OUT: a sandbox folder (the form that cvmfs serves), or *.sif.  Needs `apptainer` in PATH, no root.
set -euo pipefail
[ -e /etc/apt/sources.list.d/debian.sources ] || { echo "$0: made for Debian 12, whose debian.sources is not here" >&2; exit 1; }
OUT=$(realpath -m "$1"); BACKENDS=$(realpath "$2")
CACHE=$(realpath -m "${3:-${XDG_CACHE_HOME:-$HOME/.cache}/hermes/apptainer-packages}")
PYTRITON=nvidia-pytriton==0.7.0; REQS="numpy==1.26.4 onnxruntime==1.31.1"
PKGS="base-files bash coreutils dash grep sed libc-bin libstdc++6 python3.11-minimal libpython3.11"
tag=$( (cat "$0"; cd "$BACKENDS"; find . -name '*.py' | sort | xargs cat) | sha256sum | cut -c1-16)
if [ -e "$OUT" ] && [ "$(cat "$OUT.tag" 2>/dev/null)" = "$tag" ]; then exit; fi
command -v apptainer >/dev/null
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT

# 1. wheels for the container's Python, whatever Python runs pip
W=$CACHE/wheels-$(echo "$PYTRITON $REQS" | sha256sum | cut -c1-8)
target=(--python-version 3.11 --implementation cp --only-binary=:all:)
for p in 2_35 2_28 2_27 2_17 2014; do target+=(--platform "manylinux${p/#2_/_2_}_x86_64"); done
wheels() {
    [ -e "$W/.complete" ] && return
    rm -rf "$W"; mkdir -p "$W"
    python3 -m pip download -q --disable-pip-version-check "${target[@]}" --no-deps -d "$W" $PYTRITON
    python3 -m pip download -q --disable-pip-version-check "${target[@]}" -d "$W" $REQS
    touch "$W/.complete"
}
wheels >"$tmp/pip.log" 2>&1 & wheels=$!

# 2. Debian packages, only extracted: nothing of them is configured or run on this machine
D=$CACHE/rootfs-$(echo "$PKGS" | sha256sum | cut -c1-8)
if [ ! -e "$D/.complete" ]; then
    src=/etc/apt/sources.list.d/debian.sources
    rm -rf "$D"; mkdir -p "$D/lists/partial" "$D/none" "$D/archives/partial"
    echo "deb [signed-by=$(awk '/^Signed-By:/{print $2; exit}' $src)]" \
         "$(awk '/^URIs:/{print $2; exit}' $src) bookworm main" >"$D/sources.list"
    cat >"$D/apt.conf" <<EOF
Dir::Etc::sourcelist "$D/sources.list"; Dir::Etc::sourceparts "$D/none"; Dir::Etc::preferencesparts "$D/none";
Dir::State::lists "$D/lists"; Dir::State::status "/dev/null"; Dir::State::extended_states "$D/extended";
Dir::Cache::archives "$D/archives"; Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
APT::Update::Post-Invoke ""; APT::Update::Post-Invoke-Success ""; DPkg::Post-Invoke ""; APT::Sandbox::User "root";
APT::Keep-Downloaded-Packages "true"; APT::Install-Recommends "false";
Acquire::Languages "none"; Acquire::Retries "3"; Debug::NoLocking "1";
EOF
    (export APT_CONFIG=$D/apt.conf; timeout 300 apt-get -qq update
     timeout 300 apt-get -qq -y --download-only install $PKGS >/dev/null)
    rm -rf "$D"/{lists,none,extended,apt.conf,sources.list}; touch "$D/.complete"
fi

# 3. Apptainer's own files in an empty sandbox, then the root file system with its merged /usr
S=$OUT; case $OUT in *.sif) S=$tmp/sandbox;; esac
rm -rf "$S" "$OUT" "$OUT.tag"; mkdir -p "$(dirname "$OUT")"
cat >"$tmp/def" <<'EOF'
Bootstrap: scratch
%environment
    export PATH=/opt/tritonserver/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1
EOF
user=; [ "$(id -u)" = 0 ] || user=--ignore-subuid             # no newuidmap needed
apptainer -s build $user --sandbox "$S" "$tmp/def" >"$tmp/build.log" 2>&1 || { cat "$tmp/build.log" >&2; exit 1; }
for d in bin sbin lib lib64; do
    mkdir -p "$S/usr/$d"; rm -rf "${S:?}/$d"; ln -s usr/$d "$S/$d"
done
for f in "$D"/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$f" | tar -x --no-same-owner --keep-directory-symlink -C "$S"
done
ln -sf python3.11 "$S/usr/bin/python3"
rm -rf "$S"/usr/share/{doc,man,locale,info,lintian}
mkdir -p "$S"/{dev,etc,home,mnt,opt,proc,root,run,srv,sys,tmp,var/tmp}
printf 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/nonexistent:/bin/false\n' >"$S/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$S/etc/group"          # Apptainer adds the caller's

# 4. Triton
wait $wheels || { cat "$tmp/pip.log" >&2; exit 1; }
python3 - "$W"/nvidia_pytriton-*.whl "$tmp/w" <<'EOF'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z:
    z.extractall(sys.argv[2], [n for n in z.namelist()
        if n.startswith(("nvidia_pytriton.libs/", "pytriton/tritonserver/"))
        and "libpython3-" not in n and ("/python_backend_stubs/" not in n or "/3.11/" in n)])
EOF
O=$S/opt/tritonserver; T=$tmp/w/pytriton/tritonserver
mkdir -p "$O/bin" "$O/backends"; cp -r "$tmp/w/nvidia_pytriton.libs" "$O/lib"  # RPATH $ORIGIN/../lib
ln -s opt/tritonserver/lib "$S/nvidia_pytriton.libs"      # RPATH of backends/python: $ORIGIN/../../../../nvidia_pytriton.libs
install -m755 "$T/bin/tritonserver" "$O/bin/"; cp -r "$T/caches" "$O/"; cp -r "$T/backends/python" "$O/backends/"
install -m755 "$T/python_backend_stubs/3.11/triton_python_backend_stub" "$O/backends/python/"
cp -r "$BACKENDS"/. "$O/backends/"
site=$S/usr/local/lib/python3.11/dist-packages; mkdir -p "$site"
python3 -m pip install -q --disable-pip-version-check --no-index --find-links "$W" --target "$site" "${target[@]}" \
    --no-compile --root-user-action=ignore $REQS
find "$S" \( -name __pycache__ -o -path '*-packages/*/tests' \) -prune -exec rm -rf {} +
chmod -R u+w,a+rX "$S"
[ "$S" = "$OUT" ] || apptainer -s build --mksquashfs-args "-comp zstd -Xcompression-level 3" "$OUT" "$S" >"$tmp/build.log" 2>&1 ||
    { cat "$tmp/build.log" >&2; exit 1; }
echo "$tag" >"$OUT.tag"; echo "$OUT: $(du -sh "$OUT" | cut -f1)"
