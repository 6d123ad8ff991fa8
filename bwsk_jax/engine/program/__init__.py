"""What is differentiated: functions, their derivatives and scan bodies as programs of numbered values."""
