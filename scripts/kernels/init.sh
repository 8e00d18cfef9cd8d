#!/bin/busybox sh
# The first process of a guest: makes a root file system out of the shared folder, with what is written kept in memory,
# and runs /job in it. The output goes to the port `out`, the exit code to the port `status`.
export PATH=/bin
/bin/busybox --install -s /bin

give_up() {
	echo "guest: $*" >/dev/console
	poweroff -f
}
port() { # the device of the port of that name
	for device in /sys/class/virtio-ports/*; do
		[ "$(cat "$device/name" 2>/dev/null)" != "$1" ] || echo "/dev/${device##*/}"
	done
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
	insmod "$module" || give_up "cannot load $module"
done </early
shared=ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose
mount -t 9p -o $shared root /root || give_up "no root folder"
mount -t tmpfs -o size=80% tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/root,upperdir=/upper/files,workdir=/upper/work overlay /whole || give_up "no overlay"

cd /whole || give_up "no root folder"
mkdir -p proc sys dev run tmp
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t devtmpfs devtmpfs dev
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p run/guest/kernel run/guest/files run/guest/bin
cp /bin/busybox /job run/guest/
for name in cat find ip modprobe mount sh sysctl; do ln -s ../busybox run/guest/bin/$name; done
mount -t 9p -o $shared kernel run/guest/kernel
mount -t 9p -o $shared files run/guest/files 2>/dev/null # where the root folder is not the machine's own
release=$(uname -r)
mkdir -p "lib/modules/$release"
mount --bind "run/guest/kernel/lib/modules/$release" "lib/modules/$release" || give_up "no modules"
echo /run/guest/bin/modprobe >/proc/sys/kernel/modprobe
ip link set lo up

cat >run/guest/start <<'START'
out=$1 status=$2
{ /run/guest/busybox sh /run/guest/job </dev/null 2>&1; echo $? >"$status"; } | /run/guest/busybox cat >"$out"
/run/guest/busybox sync
/run/guest/busybox reboot -f
START
out=$(port out) status=$(port status)
[ -n "$out" ] && [ -n "$status" ] || give_up "no ports"
exec switch_root /whole /run/guest/busybox sh /run/guest/start "$out" "$status"
