#!/bin/bash
# Builds the root of a staged program in the mount namespace that it was
# started in, and becomes the program:
# ROOT BASE TREE SNAP COMMON-HERE COMMON-THERE NOTIFY-DIR PROGRAM ARGUMENT...
set -euo pipefail
root=$1 base=$2 tree=$3 snap=$4 here=$5 there=$6 notify=$7
shift 7

mount --bind "$base" "$root"
mount -o remount,bind,ro "$root"
for dir in snap var/snap run tmp; do
	mount -t tmpfs tmpfs "$root/$dir"
done
mkdir -p "$root$snap" "$root$there"
mount --bind "$tree" "$root$snap"
mount --bind "$here" "$root$there"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
if [ -n "$notify" ]; then
	mkdir "$root/run/${notify##*/}"
	mount --bind "$notify" "$root/run/${notify##*/}"
fi

# Nothing of the machine stays mounted in here.
cd "$root"
pivot_root . .
umount -l .
cd /
exec "$@"
