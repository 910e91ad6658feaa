#!/usr/bin/env bash
# apptainer.sh PREFIX [CACHE]: a private Apptainer (also named "singularity", which is what spython
# runs) under PREFIX, on Debian bookworm, from Debian's own archive through the apt source this
# machine already has.  Needs no root; writes only PREFIX and CACHE.  A no-op where PREFIX is good.
#
# Debian has Apptainer in sid only, built for a newer glibc than bookworm's, so PREFIX gets sid's
# libc6, libseccomp2 and libsqlite3-0 too, and patchelf points Apptainer's two programs (and nothing
# else) at them.  Containers, and the tools Apptainer runs, keep their own libraries.
set -euo pipefail
[ -e /etc/apt/sources.list.d/debian.sources ] || { echo "$0: made for Debian 12, whose debian.sources is not here" >&2; exit 1; }
PREFIX=$(realpath -m "${1:?usage: apptainer.sh PREFIX [CACHE]}")
CACHE=$(realpath -m "${2:-${XDG_CACHE_HOME:-$HOME/.cache}/hermes/apptainer-packages}")
if [ "$(cat "$PREFIX/.complete" 2>/dev/null)" = "$PREFIX" ] && "$PREFIX/bin/apptainer" --version 2>/dev/null; then exit; fi

# debs SUITE PACKAGE...: download into CACHE/SUITE, all or none, past the machine's own apt lists
debs() {
    local suite=$1 dir=$CACHE/$1 src=/etc/apt/sources.list.d/debian.sources; shift
    [ -e "$dir/.complete" ] && return
    rm -rf "$dir"; mkdir -p "$dir/lists/partial" "$dir/none"
    echo "deb [signed-by=$(awk '/^Signed-By:/{print $2; exit}' $src)]" \
         "$(awk '/^URIs:/{print $2; exit}' $src) $suite main" >"$dir/sources.list"
    cat >"$dir/apt.conf" <<EOF
Dir::Etc::sourcelist "$dir/sources.list"; Dir::Etc::sourceparts "$dir/none"; Dir::Etc::preferencesparts "$dir/none";
Dir::State::lists "$dir/lists"; Dir::State::status "/dev/null"; Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
APT::Update::Post-Invoke ""; APT::Update::Post-Invoke-Success ""; APT::Sandbox::User "root";
Acquire::Languages "none"; Acquire::Retries "3"; Debug::NoLocking "1";
EOF
    (cd "$dir"; export APT_CONFIG=$dir/apt.conf
     timeout 300 apt-get -qq update; timeout 300 apt-get -qq download "$@")
    rm -rf "$dir"/{lists,none,apt.conf,sources.list}; touch "$dir/.complete"
}
debs sid apptainer libc6 libseccomp2 libsqlite3-0
debs bookworm squashfs-tools liblzo2-2 patchelf

P=$PREFIX.new; rm -rf "$P"; mkdir -p "$P/sid" "$P/bookworm" "$P/lib/glibc" "$P/lib/squashfs"
for d in sid bookworm; do for f in "$CACHE/$d"/*.deb; do dpkg-deb -x "$f" "$P/$d"; done; done
m=x86_64-linux-gnu
mkdir "$P/bin"; mv "$P/sid/usr/bin/apptainer" "$P/bin/"; ln -s apptainer "$P/bin/singularity"
mv "$P/sid/usr/lib/$m/apptainer" "$P/lib/"; mv "$P/sid/etc" "$P/sid/var" "$P/"
mv "$P/sid/usr/lib/$m"/{ld-linux-x86-64.so.2,lib*.so*} "$P/lib/glibc/"
for f in bin/apptainer lib/apptainer/bin/starter; do
    "$P/bookworm/usr/bin/patchelf" --set-interpreter "$PREFIX/lib/glibc/ld-linux-x86-64.so.2" \
        --force-rpath --set-rpath "$PREFIX/lib/glibc" "$P/$f"
done
# Apptainer finds its files from the place of its own program: bin/apptainer takes PREFIX and
# Debian's lib/$m; the starter, which Debian has one level deeper than upstream, takes PREFIX/lib
mkdir "$P/lib/$m"; mv "$P/lib/apptainer" "$P/lib/$m/"; ln -s . "$P/lib/lib"
for d in etc var bin; do ln -s ../$d "$P/lib/$d"; done
# squashfs-tools, where Apptainer looks first; it reads the wrapper through _WRAPPER_EXEC_CMD=echo
mv "$P"/bookworm/usr/bin/{mk,un}squashfs "$P"/bookworm/lib/$m/liblzo2.so.2* "$P/lib/squashfs/"
for t in mksquashfs unsquashfs; do
    printf '#!/bin/bash\nexport LD_LIBRARY_PATH=%q; ${_WRAPPER_EXEC_CMD:-exec} %q "$@"\n' \
        "$PREFIX/lib/squashfs" "$PREFIX/lib/squashfs/$t" >"$P/lib/$m/apptainer/bin/$t"
    chmod 755 "$P/lib/$m/apptainer/bin/$t"
done
# root may lack CAP_SYS_RESOURCE (seen on virtual machines), which the default ("full") insists on; "no" gives
# the container's root what an ordinary user has
sed -i 's/^root default capabilities = .*/root default capabilities = no/' "$P/etc/apptainer/apptainer.conf"
rm -rf "$P/sid" "$P/bookworm" "$PREFIX"; chmod -R a+rX "$P"; mv "$P" "$PREFIX"
"$PREFIX/bin/apptainer" --version; echo "$PREFIX" >"$PREFIX/.complete"
