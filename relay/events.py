"""Every event that the relay logs, one function each; this file is the log reference.

Names are `noun.verb`, fields are flat. ERROR: someone must act. WARNING: look this week. Never a message body,
never a credential. Text from peers arrives here already cleaned of control characters.
"""

import logging

log = logging.getLogger("relay")

# -- process --------------------------------------------------------------------------------------------------

# -- ingress --------------------------------------------------------------------------------------------------

# -- queue ----------------------------------------------------------------------------------------------------

# -- policy ---------------------------------------------------------------------------------------------------

# -- delivery -------------------------------------------------------------------------------------------------

# -- reports --------------------------------------------------------------------------------------------------
