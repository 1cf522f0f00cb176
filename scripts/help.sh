# Sourced by the other scripts: with -h or --help among the arguments, print the comment at the script's head and end.
for argument in "$@"; do
    if [[ $argument == -h || $argument == --help ]]; then
        sed -n '2,/^[^#]/{ s/^# \{0,1\}//p; }' "${BASH_SOURCE[1]}"
        exit 0
    fi
done
