#!/usr/bin/env bash
# as-ordinary-user.sh HOME COMMAND...: as root, run a command as the user nobody, whose home is HOME.
# Python and our caches usually are below root's own home, which nobody may enter: in a mount namespace of
# this command's own they are put, at their paths, into an empty home that everybody may enter.
set -euo pipefail
home=$(realpath "$1"); shift
cache=${XDG_CACHE_HOME:-$HOME/.cache}
if [ -z "${AS_USER_INSIDE:-}" ]; then
    AS_USER_INSIDE=yes exec unshare --mount "$0" "$home" "$@"
fi
unset AS_USER_INSIDE
shown=("$cache/hermes" "$("${HERMES_PYTHON:-python3}" -c 'import sys; print(sys.base_prefix)')")
work=/mnt; mount -t tmpfs tmpfs "$work"  # goes with the namespace
for i in "${!shown[@]}"; do
    mkdir "$work/$i"; mount --bind "${shown[$i]}" "$work/$i"
done
mount -t tmpfs -o mode=755 tmpfs "$HOME"
for i in "${!shown[@]}"; do
    case ${shown[$i]}/ in "$HOME"/*) mkdir -p "${shown[$i]}"; mount --bind "$work/$i" "${shown[$i]}" ;; esac
done
umount --recursive "$work"
export XDG_CACHE_HOME=$cache HOME=$home
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
