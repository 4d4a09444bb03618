#!/bin/bash
# Prints ocelli@.service, made from ocelli.service: each instance has a configuration, state and cache of its own.
set -euo pipefail
cd "$(dirname "$0")"
sed -e '1c# Several Ocelli on one box: ocelli@NAME runs /etc/ocelli/NAME.yaml, with a state and a cache folder of its own.' \
  -e '2c# Made by template.sh from ocelli.service: change that one.' \
  -e 's#^Description=.*#& (%i)#' \
  -e 's#/etc/ocelli/ocelli.yaml#/etc/ocelli/%i.yaml#g' \
  -e 's#^\(State\|Cache\|Runtime\)Directory=ocelli#&/%i#' \
  -e 's#/var/lib/ocelli#&/%i#g' -e 's#/var/cache/ocelli#&/%i#g' \
  -e 's#=/run/ocelli#&/%i#g' ocelli.service
