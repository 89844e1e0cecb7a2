"""What people read: a page for each hospital, one for the study, and the contact sheet. No torch."""
