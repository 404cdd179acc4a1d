#!/bin/sh
# What `cargo xtask deploy` does on a machine. It comes by ssh's standard input, as root's.
#
#   host.sh facts     PACKAGE            how it is installed, and whether a way back to that is kept
#   host.sh preflight PACKAGE DEB        unpacks DEB aside; its `check` must pass; changes nothing
#   host.sh install   PACKAGE DEB        installs DEB, and nothing but DEB will do
#   host.sh health    PACKAGE SECONDS    waits until the service runs and its doctor finds nothing wrong
#   host.sh keep      PACKAGE DEB        DEB is the way back of the next time
#   host.sh back      PACKAGE VERSION STATE
#                                        installs the former package, or removes a first one (-);
#                                        restarts the service where STATE, from before, is active
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
umask 077
KEEP=/var/cache/totoro-deploy
verb=$1 package=$2

installed() {
    dpkg-query -W -f '${db:Status-Status} ${Version}' "$package" 2>/dev/null |
        sed -n 's/^installed //p'
}

config() {
    case $package in
        totoro-node) echo /etc/totoro/node.toml ;;
        totoro-control) echo /etc/totoro/control/control.toml ;;
    esac
}

# Runs a program with the settings that the service's unit gives it.
as_unit() (
    # A line that the shell does not like is passed over, as systemd does.
    set +e +u -a
    [ ! -r "/etc/default/$package" ] || . "/etc/default/$package"
    set +a
    exec "$@"
)

# Whether the daemon whose program is $1 finds its machine or its installation good.
look() {
    case $package in
        totoro-node) as_unit "$1" check ;;
        totoro-control) [ ! -e "$(config)" ] || as_unit "$1" doctor --config "$(config)" ;;
    esac
}

apt_install() {
    apt-get install -y -q --no-install-recommends --allow-downgrades \
        -o Dpkg::Options::=--force-confold "$1" >&2
}

case $verb in
    facts)
        # `config-files` has the version of what was removed, which is none.
        read -r status version <<END || true
$(dpkg-query -W -f '${db:Status-Status} ${Version}' "$package" 2>/dev/null)
END
        case $status in
            '') status=not-installed version= ;;
            not-installed | config-files) version= ;;
        esac
        way=-
        [ -z "$version" ] || [ ! -e "$KEEP/${package}_$version.deb" ] || way=kept
        active=$(systemctl is-active "$package.service" || true)
        echo "$status ${version:--} $way $active $(dpkg --print-architecture)"
        ;;
    preflight)
        aside=$(mktemp -d)
        trap 'rm -rf "$aside"' EXIT
        dpkg-deb -x "$3" "$aside"
        look "$aside/usr/bin/$package"
        ;;
    install)
        apt_install "$3"
        # apt is content, too, when it finds a reason to leave what is there.
        version=$(dpkg-deb -f "$3" Version)
        now=$(installed)
        if [ "$now" != "$version" ]; then
            echo "apt did not install $version: ${now:-none} is there" >&2
            exit 1
        fi
        ;;
    health)
        end=$(($(date +%s) + $3))
        while :; do
            left=$((end - $(date +%s)))
            # One that hangs has only what is left; a good one that begins late gets to its end.
            [ "$left" -ge 5 ] || left=5
            state=$(systemctl is-active "$package.service" || true)
            if [ "$state" = active ]; then
                case $package in
                    totoro-node)
                        said=$(as_unit timeout "$left" totoro-node doctor 2>&1) &&
                            exit 0 || true ;;
                    totoro-control)
                        said=$(as_unit timeout "$left" totoro-control doctor --config "$(config)" 2>&1) &&
                            exit 0 || true ;;
                esac
            else
                said="$package.service is $state"
            fi
            # It was started often enough: systemd itself never gives up.
            restarts=$(systemctl show -P NRestarts "$package.service")
            if [ "$state" = failed ] || [ "${restarts:-0}" -ge 5 ] || [ "$(date +%s)" -ge "$end" ]; then
                # grep fails when no line is left.
                echo "${said:-its doctor said nothing in time}" | grep -v ' OK ' >&2 || true
                journalctl -q -n 15 --no-pager -o cat -u "$package.service" >&2 || true
                exit 1
            fi
            sleep 1
        done
        ;;
    keep)
        install -d -m 0700 "$KEEP"
        install -m 0600 "$3" "$KEEP/${package}_$(installed).deb"
        # The one that runs, and the one before it.
        ls -t "$KEEP/${package}_"*.deb | tail -n +3 | xargs -r rm -f
        ;;
    back)
        if [ "$3" = - ]; then
            apt-get remove -y -q "$package" >&2
        else
            apt_install "$KEEP/${package}_$3.deb"
            if [ "$4" = active ]; then
                systemctl reset-failed "$package.service" || true
                systemctl restart "$package.service"
            fi
        fi
        ;;
esac
