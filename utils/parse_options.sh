# shellcheck shell=bash
# Sourced, without arguments, after the script has set every option to its default:
#
#     stage=1         # first stage to run
#     . utils/parse_options.sh
#
# Legal options are the script's plain lower-case variables. An exported variable counts only where the script itself
# assigns it, so that `http_proxy` and its like in a user's environment are no options.
# Values are stored, never evaluated. A script that passes other options on declares an array other_options=() for them.

_po_fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Fills _po_known and _po_booleans, names between blanks: " name name ".
_po_list() {
    local name attributes IFS=$'\n'
    _po_known=' ' _po_booleans=' '
    for name in $(compgen -v); do
        [[ ${name} =~ ^[a-z][A-Za-z0-9_]*$ && ${name} != help_message && -v ${name} ]] || continue
        # Other attributes would do more than store: -i evaluates, -n points elsewhere, -r fails.
        attributes=$(declare -p "${name}")
        case ${attributes} in
            'declare -- '*) ;;
            'declare -x '*) grep -Eq "^(export +)?${name}=" "${_po_script}" || continue ;;
            *) continue ;;
        esac
        _po_known+="${name} "
        if [[ ${!name} == true || ${!name} == false ]]; then _po_booleans+="${name} "; fi
    done
}

_po_is_known() { [[ $1 != *[!A-Za-z0-9_]* && ${_po_known} == *" $1 "* ]]; }

# " (did you mean --x?)"; a beginning of a name is more likely an abbreviation than a typing error.
_po_hint() {
    python3 -Ic 'if True:
        import difflib, sys
        wanted, known = sys.argv[1], sys.argv[2].split()
        near = [name for name in known if wanted and name.startswith(wanted)]
        print(" (did you mean --%s?)" % (near or difflib.get_close_matches(wanted, known, 1, 0))[0])' \
        "${1:0:40}" "${_po_known} config help" 2>/dev/null || true
}

# Script, option, and why it is refused: options that are gone, and those that belong to another script.
_po_refused="
run.sh int8 is gone: use --onnx true and quantise the pack's onnx/model.onnx by onnxruntime.quantization.quantize_dynamic
reproduce_paper.sh every is gone: progress is printed after each experiment, and --parallel runs several at once
reproduce_paper.sh beta|grl|seed|protocol|tag|stop_stage|skip_stages is for ./run.sh; here --settings, --seeds and \
--protocols select what is run"

# _po_refuse NAME SHOWN [WHERE]: exits, unless the script passes unknown options on.
_po_refuse() {
    local script option why
    while read -r script option why; do
        if [[ ${_po_script##*/} == "${script}" && $1 =~ ^(${option})$ ]]; then _po_fail "${3:-}$2 ${why}"; fi
    done <<<"${_po_refused}"
    if ! ${_po_passes_on}; then _po_fail "${3:-}invalid option $2$(_po_hint "$1")"; fi
}

# _po_check NAME VALUE SHOWN: exits where a true/false option would become something else.
_po_check() {
    if [[ ${_po_booleans} != *" $1 "* || $2 == true || $2 == false ]]; then return 0; fi
    _po_fail "$3: expected true or false, got '$2'"
}

# name=value lines; the value may be quoted; # begins a comment.
_po_read_config() {
    local file=$1 line name value number=0
    local quoted="^(\"([^\"]*)\"|'([^']*)')[[:space:]]*(#.*)?\$"
    if [[ ! -f ${file} && ! -p ${file} || ! -r ${file} ]]; then _po_fail "--config: cannot read '${file}'"; fi
    while IFS= read -r line || [[ -n ${line} ]]; do
        number=$((number + 1)) line=${line%$'\r'}
        if [[ ${line} =~ ^[[:space:]]*(#|$) ]]; then continue; fi
        if [[ ! ${line} =~ ^[[:space:]]*([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]]; then
            _po_fail "${file}:${number}: expected name=value, got '${line}'"
        fi
        name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
        if [[ ${value} =~ ${quoted} ]]; then
            value=${BASH_REMATCH[2]}${BASH_REMATCH[3]}
        else
            value=" ${value}" value=${value%%[[:space:]]#*} value=${value# }
            value=${value%"${value##*[![:space:]]}"}
        fi
        _po_is_known "${name}" || _po_refuse "${name}" "${name}" "${file}:${number}: "
        _po_check "${name}" "${value}" "${file}:${number}: ${name}"
        printf -v "${name}" '%s' "${value}"
    done <"${file}"
}

# The help is taken from the script: its first comment, its `name=default  # comment` lines and the comments
# directly above one of these, as headings.
_po_help() {
    local line name shown heading='' intro=true
    local option='^([a-z][A-Za-z0-9_]*)=.*[[:space:]]#[[:space:]]*(.*)$'
    if [[ -n ${help_message:-} ]]; then
        printf '%s\n' "${help_message}"
        return
    fi
    printf 'Usage: %s [--option value]...\n' "${0##*/}"
    while IFS= read -r line; do
        case ${line} in
            '#!'* | '# shellcheck'*) continue ;;
            '#'*)
                line=${line#\#} line=${line# }
                if ${intro}; then printf '%s\n' "${line}"; else heading+=$'\n'${line}$'\n'; fi
                ;;
            *parse_options.sh*) break ;;
            *)
                intro=false
                if [[ ${line} =~ ${option} ]] && _po_is_known "${BASH_REMATCH[1]}"; then
                    name=${BASH_REMATCH[1]} shown=${BASH_REMATCH[2]}
                    printf '%s  --%-18s %s [%s]\n' "${heading}" "${name}" "${shown}" "${!name}"
                fi
                heading=''
                ;;
        esac
    done <"${_po_script}"
    printf '  --%-18s %s\n' config 'FILE of name=value lines, read before the command line' help 'this text'
}

_po_script=${BASH_SOURCE[1]:-$0}
_po_passes_on=false
if declare -p other_options &>/dev/null; then _po_passes_on=true; fi
_po_list
# Every word of the command line is checked before any value is set.
_po_names=() _po_values=()
while (($#)); do
    case $1 in
        --help | -h)
            _po_help >&2
            exit 0
            ;;
        --)
            shift
            break
            ;;
        --*=*) _po_fail "options are two words: write ${1%%=*} ${1#*=}, not $1" ;;
        --*) _po_name=${1#--} _po_name=${_po_name//-/_} ;;
        *) break ;;
    esac
    if ! _po_is_known "${_po_name}" && { [[ ${_po_name} != config ]] || ${_po_passes_on}; }; then
        _po_refuse "${_po_name}" "$1"
    fi
    if (($# < 2)); then _po_fail "option $1 needs a value"; fi
    if _po_is_known "${_po_name}"; then
        _po_check "${_po_name}" "$2" "$1"
        _po_names+=("${_po_name}") _po_values+=("$2")
    elif ${_po_passes_on}; then
        other_options+=("$1" "$2")
    else
        _po_read_config "$2"
    fi
    shift 2
done
for _po_i in ${_po_names[@]+"${!_po_names[@]}"}; do printf -v "${_po_names[_po_i]}" '%s' "${_po_values[_po_i]}"; done
unset "${!_po_@}"
unset -f _po_fail _po_list _po_is_known _po_hint _po_refuse _po_check _po_read_config _po_help
