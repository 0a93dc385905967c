"""JupyterLab as the course wants it, without touching the reader's own.

The JSON files here are added to JupyterLab's search path for the one server
that `labs open` starts (JUPYTER_CONFIG_PATH): nothing in ~/.jupyter changes,
and a setting that the reader made in JupyterLab still wins.

- windowingMode "none": every cell stays attached. The other modes take cells
  that scroll out of view off the page, and with them a widget's live view.
- commsOverSubshells "perCommTarget": a widget's messages are answered while a
  cell runs. Without it a Stop button would wait for the training to end.
- no news, no update check, no extension search: nothing asks a network.
- saveState false: a saved notebook does not carry megabytes of widget state.
"""
