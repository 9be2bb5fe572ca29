-- How many runs of one principal wait, without a look at those of others.
CREATE INDEX runs_of_a_principal ON runs ((principal ->> 'identity')) WHERE status = 'pending' AND principal IS NOT NULL;
