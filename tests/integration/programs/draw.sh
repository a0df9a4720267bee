# An X server without a screen keeps its picture in a file here, which is mapped; two clients draw; a copy is "picture".
set -e
Xvfb -displayfd 3 -screen 0 64x48x24 -fbdir . -nolisten tcp -noreset 3>display 2>/dev/null &
server=$!
trap 'kill $server 2>/dev/null || :' EXIT
until [ -s display ]; do sleep 0.05; done
DISPLAY=:$(cat display)
export DISPLAY
xsetroot -solid '#123456'
xsetroot -mod 5 7 -fg '#ffffff' -bg '#800000'
cat Xvfb_screen0 >picture
kill $server
wait $server
echo "the server ended: $?"
